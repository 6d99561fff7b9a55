"""5,000 mutations of real sound files; `python tools/fuzz.py --count 100000` is the long form."""

import json

import numpy as np
import pytest

from aape.data.audio import read_audio
from fuzz import SPARE_FRAMES, fuzz, judge
from mutations import Mutant, make_seeds, mutate, ogg_checksum, with_ogg_checksums


def test_no_mutation_crashes_hangs_swells_or_passes_as_sound():
    """One damaged file among a million must cost one line, not the run, the machine, or the model's training."""
    summary = fuzz(count=5000, seed=0)
    assert summary["count"] == 5000
    assert not summary["failures"], json.dumps(summary, indent=1)
    for name in (
        "wav",
        "w64",
        "caf",
        "au",
        "sphere",
        "aiff",
        "flac",
        "vorbis",
        "opus",
        "mp3",
    ):  # neither all refused nor all read: it is a test
        assert summary["outcomes"][f"{name} read"] > 5
        assert summary["outcomes"][f"{name} refused"] > 20


def test_a_mutant_is_a_function_of_its_number():
    """A failure that cannot be made again cannot be mended."""
    seeds = make_seeds()
    assert all(mutate(seeds, 3, index) == mutate(seeds, 3, index) for index in range(50))
    assert len({mutate(seeds, 3, index).content for index in range(200)}) > 150


@pytest.mark.parametrize("name", ["wav-16", "flac-16", "aiff-24", "vorbis"])
def test_the_judge_sees_what_is_missing(name, tmp_path, monkeypatch):
    """A judge that passes everything would make 100,000 files worth nothing."""
    seeds = make_seeds()
    num_samples = len(read_audio(seeds[name]))
    mutant = Mutant(f"{name}: nothing", seeds[name])
    assert judge(mutant, seeds[name], num_samples, 0, tmp_path / "a.wav") == "read"
    monkeypatch.setattr("fuzz.read_audio", lambda content, **_: read_audio(content)[: -SPARE_FRAMES - 1])
    assert judge(mutant, seeds[name], num_samples, 0, tmp_path / "a.wav").startswith("failed")
    monkeypatch.setattr("fuzz.read_audio", lambda content: np.full(num_samples, np.nan, np.float32))
    with pytest.raises(AssertionError, match="NaN"):
        judge(mutant, seeds[name], num_samples, 0, tmp_path / "a.wav")


def test_mutated_ogg_pages_reach_the_decoder():
    """With wrong checksums libogg would drop every mutated page, and nothing behind it would be tested."""
    content = make_seeds()["vorbis"]
    assert with_ogg_checksums(content) == content
    page = bytearray(content[:58])
    page[22:26] = bytes(4)
    assert ogg_checksum(bytes(page)) == int.from_bytes(content[22:26], "little")
