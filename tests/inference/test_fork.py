"""A model in processes that were forked: PyTorch's threads are not copied, and waiting for them would never end."""

import os
import subprocess
import sys

import pytest

from notes import NOTES

PROGRAM = """
import multiprocessing, sys
import numpy as np, torch
torch.set_num_threads(2)
import aape

files = sys.argv[1:]
model = aape.load_model("tiny", "cpu")
expected = model.embed_files(files)[0]

def frames(file):
    return model.embed_frames(file)[0].shape

def reload(file):
    return aape.load_model("tiny", "cpu").embed(file)

def train(file):
    encoder = aape.load_model("tiny", "cpu").encoder.train()
    encoder(torch.ones(4, 1, 128, 304)).square().mean().backward()
    return bool(encoder.cls_token.grad.isfinite().all())

def hub(file):
    from aape.huggingface import AaPEFeatureExtractor, AaPEModel
    from aape.models.saved import PRETRAINED
    inputs = AaPEFeatureExtractor.from_pretrained(PRETRAINED / "tiny")(file, 16000, "pt")
    return tuple(AaPEModel.from_pretrained(PRETRAINED / "tiny")(**inputs).pooler_output.shape)

def run(function):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(function, files)

for vectors in (run(model.embed), run(reload)):
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
assert run(frames) == [model.embed_frames(file)[0].shape for file in files]
assert all(run(train))
assert run(hub) == [(1, 3072)] * len(files)
assert torch.get_num_threads() == 2
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_forked_processes_compute(tmp_path):
    """`multiprocessing.Pool` over files is the first thing people try: it must not hang without a word."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, path, *map(str, NOTES[:2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout == "done\n", result.stderr
