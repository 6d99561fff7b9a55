"""Saved folders in a process that never imported this package: `trust_remote_code=True` is enough."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from aape.huggingface import AaPEConfig, AaPEFeatureExtractor
from aape.models.saved import PRETRAINED

CODE, EXTRACTOR = "modeling_aape.py", "preprocessor_config.json"
# Every call is the first one of its process, a child of one that has imported transformers.
PROGRAM = """
import os, sys
import numpy, torch, transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers import AutoModelForPreTraining, AutoProcessor, pipeline

assert not any(name.startswith("aape") for name in sys.modules)
{before}
for call in {calls!r}:
    sys.stdout.flush()
    if not os.fork():
        try:
            print(repr(eval(call)).splitlines()[0], flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.wait()
"""


def fresh(tmp_path, calls, before=""):
    """Return the line that each expression gives in a process of its own."""
    code = PROGRAM.format(calls=calls, before=before)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def loading(auto, folder, more=""):
    return f"type({auto}.from_pretrained({str(folder)!r}, trust_remote_code=True){more}).__name__"


def test_folders_load_where_nothing_was_imported(classifier, tmp_path):
    """A script that only knows transformers, as most do, could use no model of ours."""
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    model.save_pretrained(tmp_path / "my-bells.v2")
    AaPEFeatureExtractor().save_pretrained(tmp_path / "extractor")
    AaPEConfig().save_pretrained(tmp_path / "config")
    again = f"[m := AutoModel.from_pretrained({str(classifier)!r}, trust_remote_code=True), m.save_pretrained"
    calls = {
        loading("AutoModel", PRETRAINED / "tiny"): "'AaPEModel'",
        loading("AutoFeatureExtractor", PRETRAINED / "tiny"): "'AaPEFeatureExtractor'",
        loading("AutoProcessor", PRETRAINED / "tiny"): "'AaPEFeatureExtractor'",
        loading("AutoConfig", classifier): "'AaPEConfig'",
        loading("AutoModelForAudioClassification", classifier): "'AaPEForAudioClassification'",
        loading("AutoModelForPreTraining", classifier): "'AaPEForPreTraining'",
        loading("AutoModel", tmp_path / "my-bells.v2"): "'AaPEModel'",
        loading("AutoFeatureExtractor", tmp_path / "my-bells.v2"): "'AaPEFeatureExtractor'",
        loading("AutoFeatureExtractor", tmp_path / "extractor"): "'AaPEFeatureExtractor'",
        loading("AutoConfig", tmp_path / "config"): "'AaPEConfig'",
        f"sorted(answer['label'] for answer in pipeline('audio-classification', {str(tmp_path / 'my-bells.v2')!r},"
        " trust_remote_code=True)(numpy.ones(9000, numpy.float32)))": "['bell', 'drum', 'flute']",
        f"{again}({str(tmp_path / 'again')!r})][1]": "None",
    }
    assert dict(zip(calls, fresh(tmp_path, list(calls)), strict=True)) == calls
    for folder in (classifier, tmp_path / "my-bells.v2", tmp_path / "again"):
        assert {path.name for path in folder.glob("*.py")} == {CODE, "custom_st.py"}
        for name in (CODE, EXTRACTOR, "custom_st.py", "modules.json"):
            assert (folder / name).read_bytes() == (PRETRAINED / "tiny" / name).read_bytes()


def test_without_the_package_there_is_one_line(classifier, tmp_path):
    """`No module named 'aape.huggingface'` says to nobody what to install."""
    before = """
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "aape":
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hidden())
"""
    autos = ("AutoConfig", "AutoModel", "AutoFeatureExtractor")
    for line in fresh(tmp_path, [loading(auto, classifier) for auto in autos], before):
        assert line.startswith("ImportError")
        assert line.endswith("aape. Run `pip install aape`")


@pytest.mark.parametrize("trust", [None, False])
def test_where_the_package_was_imported_no_trust_is_needed(classifier, trust):
    """Trust is asked for code from strangers; ours is installed, and is what runs."""
    (classifier / CODE).write_text("raise SystemExit('code of the folder')\n")
    for auto in (AutoFeatureExtractor, AutoModelForAudioClassification):
        auto.from_pretrained(classifier, trust_remote_code=trust)


def test_folders_of_earlier_versions_load_as_before(classifier, tmp_path):
    """Models that were saved before there was such a file are not lost, and get one when saved again."""
    values = json.loads((classifier / "config.json").read_text())
    del values["auto_map"]
    (classifier / "config.json").write_text(json.dumps(values))
    (classifier / EXTRACTOR).write_text('{"feature_extractor_type": "AaPEFeatureExtractor"}')
    (classifier / CODE).unlink()
    assert isinstance(AutoFeatureExtractor.from_pretrained(classifier), AaPEFeatureExtractor)
    AutoModelForAudioClassification.from_pretrained(classifier).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CODE).exists()
    assert "auto_map" in json.loads((tmp_path / "again" / "config.json").read_text())
