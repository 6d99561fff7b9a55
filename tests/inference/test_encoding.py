"""Precision: what bfloat16 may change, and what stays float32 in it."""

import shutil

import numpy as np
import pytest
import torch

from aape.errors import ConfigError
from aape.inference import AudioModel, load_model, random_model
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.pooling import POOLS
from notes import FRONT_END, NOTES

FILES = [str(note) for note in NOTES[:6]]


def smallest_cosine(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    return ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min()


def base(precision):
    torch.manual_seed(0)
    return AudioModel(AudioEncoder(encoder_config("base")), FRONT_END, precision=precision)


@pytest.mark.parametrize("size", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
def test_bfloat16_keeps_the_direction(size):
    """Whoever halves the time must find the same neighbours, whatever the vector is of."""
    models = [
        load_model("tiny", "cpu", precision=precision) if size == "tiny" else base(precision)
        for precision in ("float32", "bfloat16")
    ]
    for kind in POOLS:
        for layers in ([], [1, 2]):
            one, other = (model.embed(FILES, pool=kind, layers=layers) for model in models)
            assert smallest_cosine(one, other) >= 0.999
            assert not np.array_equal(one, other)


def test_vectors_in_bfloat16_are_pooled_in_float32():
    """Rounded to 8 bits, the vectors of similar sounds would be equal in most of their numbers."""
    model = load_model("tiny", "cpu", precision="bfloat16")
    for kind in ("frequency", "frequency_std", "mean"):
        vectors = torch.from_numpy(model.embed(FILES, pool=kind, layers=[11, 12]))
        assert (vectors.bfloat16().float() == vectors).float().mean() < 0.05
    assert model.embed(FILES).dtype == np.float32


def test_precision_is_part_of_what_vectors_depend_on():
    """A restart with another precision must not mix the vectors of both."""
    one, other, auto = (load_model("tiny", "cpu", precision=name) for name in ("float32", "bfloat16", "auto"))
    assert one.fingerprint() == auto.fingerprint() != other.fingerprint()
    assert auto.precision == "float32"
    assert random_model(other, 0).precision == "bfloat16"
    with pytest.raises(ConfigError, match="precision: expected auto, float32, bfloat16, got 'half'"):
        load_model("tiny", "cpu", precision="half")


def test_double_overrides_bfloat16():
    """Float64 is asked for to compare: it must not be rounded on the way."""
    one, other = (load_model("tiny", "cpu", precision=name).double() for name in ("float32", "bfloat16"))
    np.testing.assert_array_equal(one.embed(FILES[0]), other.embed(FILES[0]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiled_blocks_have_the_same_vectors():
    """What the page says of torch.compile, in the threads that compute and for two lengths."""
    one, other = load_model("tiny", "cpu"), load_model("tiny", "cpu", compile=True)
    assert one.fingerprint() != other.fingerprint()
    np.testing.assert_allclose(one.embed_files(FILES)[0], other.embed_files(FILES)[0], atol=1e-4)
    windows = [model.embed_windows(FILES[0], window=0.5, hop=0.25)[0] for model in (one, other)]
    np.testing.assert_allclose(*windows, atol=1e-4)
    vectors = []
    for files in (FILES, FILES[::-1]):  # a run that is killed goes on with other lengths
        torch._dynamo.reset()
        model = load_model("tiny", "cpu", loop_to=0, compile=True)
        vectors.append([model.embed(file).tobytes() for file in files])
    assert vectors[0] == vectors[1][::-1]


def test_without_a_compiler_there_is_one_line(monkeypatch):
    """Torch's own error, after the first batch, has fifty."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"compile: there is no \S+ here: install it"):
        load_model("tiny", "cpu", compile=True)
