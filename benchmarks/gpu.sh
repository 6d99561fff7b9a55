#!/bin/sh
# On a machine with a CUDA device: the kernels' tests, then every measurement, into benchmarks/results/*_gpu.json.
# CORPUS=shards/clips.csv adds the paper's pre-training step fed from real shards.
set -e
cd "$(dirname "$0")/.."
python -m pytest -m gpu tests/ops
python benchmarks/operator_speed.py "$@"
python benchmarks/stem_speed.py "$@"
if [ -n "$CORPUS" ]; then
    python benchmarks/pretraining_speed.py --data "$CORPUS" --model base --clips 32 --views 16 --seconds 6 --workers 0 8
fi
python benchmarks/embedding_speed.py - "$@"
python benchmarks/table.py
