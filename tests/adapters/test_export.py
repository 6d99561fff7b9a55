"""Exported models run without this package and give its vectors."""

import json

import numpy as np
import pytest
import torch

from aape import cli, load_model
from aape.adapters import export
from aape.adapters.export import _AnyLength, _AnyLengthLogMel, max_samples, open_onnx, require_onnx
from aape.data.log_mel import LogMel
from aape.errors import AapeError
from aape.layers.positions import PositionTable
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model of random weights, a vector of its own, and a position table shorter than the longest clip."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "nano"
    encoder = AudioEncoder(encoder_config("nano", kernel_size=7, num_frames=304, hidden_dim=4, sblu_dim=16))
    save_model(folder, encoder, FrontEndConfig(mean=-4.0, std=3.0), loop_to=2, pool="frequency_std", layers=(1, 2))
    return folder


@pytest.fixture(scope="module")
def traced(saved):
    """What both formats are written from, made once, since it takes most of the time."""
    return export._trace(load_model(saved, "cpu"))


def test_onnx_agrees_with_pytorch_for_any_batch_and_length(saved, traced, monkeypatch, tmp_path, capsys):
    """The file needs samples only, and gives the vectors that a probe was trained on."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "_trace", lambda model: traced)
    out = tmp_path / "new" / "nano.onnx"
    assert cli.main(["export", str(saved), "--out", str(out)]) == 0, capsys.readouterr().err
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["nano.onnx"]
    model, run = load_model(saved, "cpu", loop_to=0), open_onnx(out)  # looping is left to who runs the file
    clips = 0.1 * torch.randn(5, 33333, generator=torch.Generator().manual_seed(1))
    for length in (9, 512, 2560, 33333):  # in 1 patch and too short to be reflected; in 2
        embedding, frames = run(clips[:, :length])
        assert np.abs(embedding.numpy() - model.embed(clips[:, :length].numpy(), 16000)).max() < 1e-4
        assert frames.shape == (5, -(-(1 + length // 160) // 16), 8 * 64)
    content = onnx.load(out)
    about = {prop.key: prop.value for prop in content.metadata_props}
    assert json.loads(about["aape"]) == {"sample_rate": 16000, "min_samples": 1, "max_samples": 97279, "loop_to": 2.0,
                                         "pool": "frequency_std", "layers": [1, 2]}  # fmt: skip
    assert {node.domain for node in content.graph.node} <= {"", "pkg.onnxscript.torch_lib"}  # nothing of ours
    with pytest.raises(Exception, match=r"."):  # not a wrong vector
        run(torch.zeros(1, 0))


def test_pt2_agrees_with_pytorch_and_knows_its_lengths(saved, traced, monkeypatch, tmp_path, capsys):
    """A torch.export file for AOTInductor or ExecuTorch, made of PyTorch's own operators."""
    monkeypatch.setattr(export, "_trace", lambda model: traced)
    out = tmp_path / "model.pt2"
    assert cli.main(["export", str(saved), "--out", str(out)]) == 0, capsys.readouterr().err
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert not [node for node in traced.graph.nodes if str(node.target).startswith("aape")]
    run = traced.module()
    for length in (0, 97280):
        with pytest.raises(Exception, match=r"out of bounds|97279"):
            run(torch.zeros(1, length))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_standard_stem_is_exported_too(tmp_path, kind):
    """The yardstick is deployed like what it is compared with; its file says that it takes no short clips."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    save_model(tmp_path / "model", AudioEncoder(encoder_config("nano", stem="patch")), FrontEndConfig())
    assert cli.main(["export", str(tmp_path / "model"), "--out", str(tmp_path / f"a.{kind}")]) == 0
    assert (tmp_path / f"a.{kind}").stat().st_size > 100_000
    assert export.min_samples(load_model(tmp_path / "model", "cpu")) == 48 * 160


@pytest.mark.parametrize(("stem", "count"), [("aape", 9), ("patch", 5)])
def test_the_shortest_and_the_longest_are_compared(tmp_path, stem, count):
    """A graph that is wrong at a limit that its file names would be written all the same."""
    save_model(tmp_path, AudioEncoder(encoder_config("nano", stem=stem)), FrontEndConfig())
    model, lengths = load_model(tmp_path, "cpu"), []

    def run(samples):
        lengths.append(samples.shape[1])
        return torch.zeros(1), torch.zeros(1, 1)

    export.compare(model, run)
    assert len(lengths) == len(set(lengths)) == count
    assert (min(lengths), max(lengths)) == (export.min_samples(model), export.max_samples(model))


def test_positions_of_any_length_are_the_models():
    """Truncated when shorter, interpolated when longer: one formula for both."""
    table = PositionTable((2, 19), 16)
    for num_time in (1, 18, 19, 20, 38):
        assert torch.allclose(_AnyLength(table.table)(num_time), table(num_time), atol=1e-6)


def test_a_file_that_disagrees_is_not_written(saved, tmp_path, monkeypatch, capsys):
    """A deployment that silently gives other vectors is worse than none."""
    monkeypatch.setattr("aape.adapters.export.write", lambda model, path, kind: path.write_bytes(b""))
    monkeypatch.setattr(
        "aape.adapters.export.open_pt2", lambda path: lambda x: (torch.zeros(len(x), 128), torch.zeros(1))
    )
    assert cli.main(["export", str(saved), "--out", str(tmp_path / "a.pt2")]) == 2
    assert "not written: it differs from PyTorch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(saved, tmp_path, monkeypatch, capsys):
    """Each says what to type instead, before minutes are spent."""
    for arguments, words in (
        ([str(saved), "--out", str(tmp_path / "a.bin")], "--format onnx or pt2"),
        ([str(saved), "--out", str(tmp_path), "--format", "onnx"], "is a folder"),
        ([str(saved), "--out", str(tmp_path / "a"), "--format", "pt2"], "must end in .pt2"),
        (["nowhere", "--out", str(tmp_path / "a.pt2")], "no such folder"),
    ):
        assert cli.main(["export", *arguments]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr("aape.adapters.export.find_spec", lambda name: None)
    with pytest.raises(AapeError, match=r"pip install 'aape\[onnx\]'"):
        require_onnx()


def test_log_mel_of_any_length_is_that_of_the_package(saved):
    """What is reflected, and what is too short for it and stands among zeros, must be the same samples."""
    ours, exported = LogMel(mean=-4.0), _AnyLengthLogMel(mean=-4.0)
    for length in (1, 2, 512, 513, 1024, 1025, 5000):
        wave = torch.randn(2, length, dtype=torch.float64)
        assert torch.equal(exported(wave), ours(wave))
    assert max_samples(load_model(saved, "cpu")) == 608 * 160 - 1
