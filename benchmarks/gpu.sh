#!/bin/sh
# On a machine with a CUDA device: the kernels' tests, then every measurement, into benchmarks/results/*_gpu.json.
set -e
cd "$(dirname "$0")/.."
python -m pytest -m gpu tests/ops
python benchmarks/operator_speed.py "$@"
python benchmarks/stem_speed.py "$@"
python benchmarks/table.py
