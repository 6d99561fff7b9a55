"""The public surface: what `import aape` gives, and what each part of it costs."""

import os
import subprocess
import sys

import pytest

import aape
from notes import NOTES

HEAVY = ("transformers", "accelerate", "matplotlib", "soundfile", "soxr", "rich", "triton", "torchmetrics", "scipy")


def test_every_public_name_is_there():
    """The names in the documentation must exist, and completion must show them."""
    for name in aape.__all__:
        assert getattr(aape, name) is not None
        assert name in dir(aape)
    assert callable(aape.ops.sblu_magnitude)
    assert callable(aape.ops.high_pass)
    for error in (aape.AudioError, aape.CheckpointError, aape.ConfigError, aape.DataError):
        assert issubclass(error, aape.AapeError)
    assert aape.__version__.count(".") == 2


def test_other_names_are_refused():
    """A typo must be an AttributeError, or `hasattr` and pickling go astray."""
    with pytest.raises(AttributeError, match="has no attribute 'load_modle'"):
        _ = aape.load_modle
    assert not hasattr(aape, "tiny")


@pytest.mark.parametrize(
    "statement",
    [
        "aape.AaPE(img_size=(128, 32), embed_dim=32, lambda_shape=(16, 1, 1))(torch.zeros(1, 1, 128, 32))",
        "aape.LogMel()(torch.zeros(1, 4000))",
        "aape.load_model",
        "aape.ops.high_pass(torch.zeros(1, 100))",
    ],
)
def test_using_the_parts_loads_torch_and_numpy_only(statement):
    """A program that only wants the stem must not wait for, or need, transformers or audio libraries."""
    code = f"import sys, torch, aape; {statement}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_the_package_alone_does_not_load_torch():
    """`aape --help` should not take the seconds that torch takes."""
    code = "import sys, aape; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["False"]


WITHOUT_TRANSFORMERS = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np, soundfile
import aape
from aape.cli import main
folder = sys.argv[1]
for index in range(4):
    soundfile.write(f"{folder}/{index}.wav", 0.1 * np.random.default_rng(index).standard_normal(16000), 16000)
assert aape.load_model("tiny").embed(f"{folder}/0.wav").shape == (3072,)
assert main(["embed", folder, "--model", "tiny", "--out", f"{folder}/vectors.npz"]) == 0
options = "--model nano --steps 1 --clips 2 --workers 0 --crop-seconds 1 --device cpu".split()
assert main(["pretrain", "--data", folder, "--out", f"{folder}/run", *options]) == 0
try:
    import aape.huggingface
except ImportError as error:
    print(error)
"""


def test_the_core_works_without_transformers(tmp_path):
    """It is an extra: whoever only embeds or trains should not have to install it."""
    command = [sys.executable, "-c", WITHOUT_TRANSFORMERS, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "aape.huggingface needs transformers: pip install 'aape[hub]'"


WITHOUT_THE_TOOLS = """
import importlib, pkgutil, sys
tools = "datasets hearvalidator mteb onnx onnxruntime sentence_transformers sklearn timm torchcodec transformers xares"
sys.modules.update(dict.fromkeys(tools.split()))  # not to be had
import aape.adapters
for module in pkgutil.iter_modules(aape.adapters.__path__):
    try:
        importlib.import_module(f"aape.adapters.{module.name}")
    except ImportError as error:
        print(error)
"""


def test_no_adapter_needs_its_tool_before_it_is_used():
    """Whoever uses one tool should not have to install the others; a class that is made of a tool's says what to do."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_TOOLS], capture_output=True, text=True, timeout=120, check=True
    )
    assert all("pip install" in line for line in result.stdout.splitlines()), result.stdout


WITH_A_BROKEN_TORCHCODEC = """
import numpy, sys
import datasets
from sentence_transformers import SentenceTransformer
import aape
from aape.adapters.sentence_transformers import AaPETransformer
from aape.huggingface import AaPEFeatureExtractor

model = aape.load_model("tiny", "cpu")
column = datasets.Dataset.from_dict({"audio": sys.argv[1:]}).cast_column("audio", datasets.Audio(decode=False))["audio"]
vectors = model.embed(column)
theirs = SentenceTransformer(modules=[AaPETransformer("tiny")], device="cpu").encode(column)
numpy.testing.assert_allclose(theirs, vectors, atol=1e-5)
assert len(AaPEFeatureExtractor()(column)["input_values"]) == 2
"""


@pytest.mark.slow
def test_a_broken_torchcodec_does_not_matter(tmp_path):
    """It wants the libraries of ffmpeg and of CUDA when it is imported, which tools do wherever it is installed."""
    pytest.importorskip("datasets")
    pytest.importorskip("sentence_transformers")
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise OSError('libnvrtc.so.13: cannot open')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", WITH_A_BROKEN_TORCHCODEC, *map(str, NOTES[:2])]
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
