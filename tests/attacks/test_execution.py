"""Models, checkpoints, recipes and shards from strangers: refused in one line; nothing runs or is written elsewhere.

Everything is loaded by one process (`guarded.py`) under an audit hook that sees what the interpreter does.
"""

import json
import re
import subprocess
import sys

import guarded
import pytest

REFUSED = {
    "pickles only": "there is no model.safetensors in it",
    "pickle as weights": "not a safetensors file, or damaged",
    "torch archive as weights": "not a safetensors file, or damaged",
    "header of 2^62 bytes": "a header of 4611686018427387904 bytes, the most is 16777216",
    "header of 96 MB": "a header of 100663296 bytes, the most is 16777216",
    "header of 300000 tensors": "a header of \\d+ bytes, the most is 16777216",
    "header beyond the file": "not a safetensors file, or damaged",
    "name of two lines": "two lines: I8 values are no weights",
    "transform of a billion": "front_end: beyond 65536 points",
    "filter bank of 1 GiB": "a filter bank of 268443648 values, the most is 16777216",
    "rate of a billion": "front_end: beyond 65536 points or 768000 Hz",
    "kernel of a billion": "kernel_size 1073741825, the most is 8192",
    "grid of a billion": "in the file, .* by config.json",
    "megabytes as a value": "encoder.stem: expected one of aape, patch, got 'xxx",
    "config as a folder": "config.json: not a file",
    "config as a pipe": "config.json: not a file",
    "recipe: call": "line 1: tags such as .*os.system are not allowed",
    "recipe: new object": "tags such as .*subprocess.Popen are not allowed",
    "recipe: module": "tags such as .*payload are not allowed",
    "recipe: name": "tags such as .*os.system are not allowed",
    "recipe: unknown tag": "tags such as !payload are not allowed",
    "recipe: tag in a key": "tags such as .*os.system are not allowed",
    "recipe: billion laughs": "anchors and aliases such as a are not allowed",
    "recipe: holds itself": "anchors and aliases such as a are not allowed",
    "recipe: deep": "not plain YAML",
    "recipe: deep mapping": "not plain YAML",
    "recipe: number of 5000 digits": "steps in .*: expected a whole number from 0 and below 2\\^63, got '9",
    "recipe: list as a key": "found unhashable key",
    "recipe: two megabytes": "over 64 KB are too many for a recipe",
    "recipe: many keys": "over 64 KB are too many",
    "recipe: not text": "special characters are not allowed",
    "recipe: base is itself": "is based on itself",
    "shard: parent": "points outside the shard",
    "shard: absolute": "points outside the shard",
    "shard: hidden parent": "points outside the shard",
    "shard: symbolic link": "member 'a.wav' is not a plain file",
    "shard: hard link": "member 'a.wav' is not a plain file",
    "shard: pipe": "member 'a.wav' is not a plain file",
    "shard: device": "member 'a.wav' is not a plain file",
    "shard: linked folder": "points outside the shard",
    "shard: compressed bomb": "not an uncompressed tar",
    "shard: member of 2 GB": "2147483648 bytes in a shard, the most is 1073741824",
    "statistics: pickle": "is not a file of `aape stats`",
    "transformers: pickle-as-weights": "not a safetensors file, or damaged",
}
HARMLESS = {
    "its own code",
    "features: pickle",
    "transformers: its-own-code",
}  # loaded without what was added, or ignored
ELSEWHERE = {"transformers: pickles-only": "OSError"}  # there is no model.safetensors


def load_all(folder, *options):
    command = [sys.executable, guarded.__file__, str(folder), *options]
    child = subprocess.run(command, capture_output=True, timeout=500)
    assert child.returncode == 0, child.stderr.decode()[-2000:]
    report = json.loads(child.stdout.splitlines()[-1])
    for bait in report["bait"].values():
        assert bait["seen"], "the hook is blind"
    assert report["left"] == ["inside"], "something was written outside, or a payload ran"
    for name, answer in report["attacks"].items():
        assert answer["seen"] == [], f"{name} got as far as {answer['seen']}"
    return report["attacks"]


def assert_is_refusal(answer, pattern):
    assert answer["kind"] == "AapeError", answer
    assert answer["text"].isprintable()
    assert len(answer["text"]) < 4500
    assert re.search(pattern, answer["text"]), answer["text"]


def test_nothing_from_a_stranger_runs(tmp_path):
    """A model folder is downloaded, a recipe copied, a shard unpacked from a mail: none of them may be a program."""
    attacks = load_all(tmp_path)
    for name, pattern in REFUSED.items():
        if name in attacks:  # not every system has named pipes
            assert_is_refusal(attacks.pop(name), pattern)
    for name in HARMLESS:
        assert attacks.pop(name)["kind"] == "", name
    for name, kind in ELSEWHERE.items():  # transformers' own loader, its own words
        assert attacks.pop(name)["kind"] == kind
    assert not attacks


@pytest.mark.slow
def test_nothing_in_a_checkpoint_runs(tmp_path):
    """A run folder that others may write to is resumed, and its pickles are refused, not executed."""
    attacks = load_all(tmp_path, "--resume")
    for name, pattern in guarded.CHECKPOINT_FILES.items():
        assert_is_refusal(attacks[f"resume: {name}"], pattern)
