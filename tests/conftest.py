"""What every test runs under: one thread, no display, no network."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

# The tests run in parallel processes, and one thread gives the same sums on every machine.
torch.set_num_threads(1)
