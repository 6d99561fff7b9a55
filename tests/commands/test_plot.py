"""`aape plot`: what a user finds beside the figure, and what is refused."""

import json

import numpy as np
import pytest
import soundfile

from aape import cli
from aape.analysis.curves import PANELS
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model
from notes import save_nano


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=32000), 16000)
    return path


def test_windows_are_drawn_with_their_numbers(tmp_path, capsys):
    """Without the seed and the ends of every descent nobody can check the success rates."""
    assert cli.main(["plot", "windows", "--out", str(tmp_path / "windows.svg"), "--tones", "10", "--steps", "3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"windows.png", "windows.svg", "windows.json"}
    content = json.loads((tmp_path / "windows.json").read_text())
    assert content["config"]["seed"] == 0
    assert len(content["success"]) == 8
    assert len(content["recovery"]["runs"][0]["ends_hz"]) == 10
    assert content["environment"]["torch"]
    assert "two-sided exponential" in capsys.readouterr().out


def test_a_clip_is_drawn_with_its_numbers(tmp_path, sound, capsys):
    """The paper's Figure 4 of any sound, and the values for whoever draws it otherwise."""
    arguments = ["plot", "clip", str(sound), "--out", str(tmp_path / "clip"), "--start", "0.5", "--seconds", "0.8"]
    assert cli.main([*arguments, "--device", "cpu"]) == 0
    assert "0.80 s of 2.00 s are shown" in capsys.readouterr().out
    content = json.loads((tmp_path / "clip.json").read_text())
    assert np.shape(content["frequencies_hz"]) == np.shape(content["decays_nepers_per_second"]) == (8, 5, 16)
    assert np.allclose(content["seconds"], 0.5 + 0.16 * np.arange(0.5, 5))
    assert (tmp_path / "clip.png").stat().st_size > 10_000
    assert (tmp_path / "clip.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("hop", "patch", "n_mels"), [(80, 8, 64), (160, 8, 128), (320, 16, 64)])
def test_a_clip_has_the_axes_of_its_model(tmp_path, sound, hop, patch, n_mels):
    """At another hop or patch size, times and modulation frequencies on the paper's scale are wrong by a factor."""
    front_end = FrontEndConfig(mean=-6.0, std=4.0, hop_length=hop, n_mels=n_mels)
    config = encoder_config("nano", patch_size=patch, n_mels=n_mels, num_frames=304)
    save_model(tmp_path / "model", AudioEncoder(config), front_end)
    options = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "clip"), "--device", "cpu"]
    assert cli.main(["plot", "clip", str(sound), "--start", "0.5", "--seconds", "0.8", *options]) == 0
    content = json.loads((tmp_path / "clip.json").read_text())
    rate = 16000 / hop  # frames a second
    frequencies, decays = np.array(content["frequencies_hz"]), np.array(content["decays_nepers_per_second"])
    num_time = -(-round(0.8 * rate) // patch)
    assert frequencies.shape == decays.shape == (n_mels // patch, num_time, 16)
    assert np.allclose(content["seconds"], 0.5 + patch / rate * np.arange(0.5, num_time))
    low, high = content["folded_band_hz"]
    assert (low, high) == pytest.approx((rate / (2 * patch), rate / 2))
    assert low < frequencies.min() < frequencies.max() < high
    assert frequencies.min() < 1.2 * low + 0.04 * high  # all of the band is covered
    assert frequencies.max() > 0.9 * high
    assert decays.min() > rate * 2 * np.log(100) / 62
    most = 1024 * hop / 16000
    options += ["--seconds", f"{most + 1}"]
    assert cli.main(["plot", "clip", str(sound), *options]) == 2


def test_what_cannot_be_drawn_is_one_line(tmp_path, sound, capsys):
    """A stem without kernels, a start behind the end, two files: each says what to do instead."""
    save_model(tmp_path / "standard", AudioEncoder(encoder_config("nano", stem="patch")), FrontEndConfig())
    out = ["--out", str(tmp_path / "x")]
    for arguments, words in (
        ([str(sound), "--model", str(tmp_path / "standard")], "no kernels"),
        ([str(sound), "--start", "3"], "2.00 s long"),
        ([str(sound), "--seconds", "11"], "at most 10.24"),
        ([str(sound), "another.wav"], "one FILE at a time"),
        ([], "FILE"),
    ):
        assert cli.main(["plot", "clip", *arguments, *out]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_a_clip_of_less_than_a_sample_is_drawn(tmp_path, sound):
    """The shortest there is to show, and no traceback."""
    out = str(tmp_path / "clip")
    assert cli.main(["plot", "clip", str(sound), "--seconds", "1e-5", "--out", out, "--device", "cpu"]) == 0
    assert np.shape(json.loads((tmp_path / "clip.json").read_text())["frequencies_hz"])[1] == 1


def test_aliasing_is_measured_and_drawn(tmp_path, capsys):
    """One command, one figure, one JSON: every stem, both phases, a model, and which recordings were left out."""
    (tmp_path / "sounds").mkdir()
    for name, seconds in (("a.wav", 2.3), ("b.wav", 3.0), ("short.wav", 1.0)):
        noise = np.random.default_rng(len(name)).normal(scale=0.1, size=int(seconds * 16000))
        soundfile.write(tmp_path / "sounds" / name, noise, 16000)
    save_nano(tmp_path / "mine")
    options = ["--models", str(tmp_path / "mine"), "--seeds", "1", "--clips", "1", "--sounds", "3"]
    arguments = ["plot", "aliasing", *options, "--out", str(tmp_path / "aliasing"), "--data"]
    assert cli.main([*arguments, str(tmp_path / "sounds")]) == 0
    shown = capsys.readouterr()
    assert "left out: 1 of the recordings, the first short.wav: shorter than 2.24 s" in shown.err
    content = json.loads((tmp_path / "aliasing.json").read_text())
    names = {row["tokens"] for row in content["decoding"]}
    mine = {f"{tmp_path / 'mine'}: {part}" for part in ("stem", "patch tokens", "class token")}
    assert names > mine | {"standard", "AaPE bilateral", "AaPE analytic", "log-mel frames", "log-mel patches"}
    assert all("AaPE bilateral, long + averaging" in text for text in (names, shown.out))
    assert content["rates_hz"][0] == 5
    assert content["shifts_ms"] == list(range(0, 170, 10))
    for rows in content["stability"].values():
        assert {row["tokens"] for row in rows} == names
        for row in rows:
            assert abs(row["median"][0]) < 1e-9  # no shift, no distance
            assert min(row["median"][1:]) > 0
    assert all(np.sum(row["confusion"]) == 15 for row in content["decoding"] if row["read_out"] == "mean")
    assert (tmp_path / "aliasing.png").stat().st_size > 10_000
    assert (tmp_path / "aliasing.svg").exists()
    (tmp_path / "sounds" / "b.wav").unlink()
    assert cli.main([*arguments, str(tmp_path / "sounds")]) == 2
    assert "1 of 2 recordings can be used" in capsys.readouterr().err


def test_a_model_of_other_patches_is_no_subject_of_the_laboratory(tmp_path, capsys):
    """Its tokens have another Nyquist frequency: the rates would not fold onto each other."""
    save_model(tmp_path / "fast", AudioEncoder(encoder_config("nano", stem="patch")), FrontEndConfig(hop_length=80))
    assert cli.main(["plot", "aliasing", "--models", str(tmp_path / "fast"), "--out", str(tmp_path / "x")]) == 2
    assert "front end" in capsys.readouterr().err
    assert cli.main(["plot", "aliasing", "--sounds", "1"]) == 2
    assert not list(tmp_path.glob("x*"))


def test_runs_are_drawn_side_by_side_and_while_they_run(tmp_path, capsys):
    """Comparing runs is how one finds what works; a line that is being written must not spoil it."""
    fields = [field for panel in PANELS for field in panel[2]]
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        lines = [json.dumps({"step": step, **{name: 1.0 / step for name in fields}}) for step in (10, 20, 30)]
        (tmp_path / run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 40, "lo')
    assert (
        cli.main(["plot", "run", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "curves.png")]) == 0
    )
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "curves.svg").exists()
    assert cli.main(["plot", "run", str(tmp_path)]) == 2
    assert "no metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "job": "seed-0", "loss": 1.0}\n')
    assert cli.main(["plot", "run", str(tmp_path)]) == 2
    assert "no metrics.jsonl of a pre-training run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("step 20", "line 2: not a JSON object"),
        ("[1]", "line 2: not a JSON object"),
        ("\udcff", "line 2: not a JSON object"),
        ('{"step": 20, "loss_mask": "low"}', "loss_mask: a value is not a number"),
        ('{"step": 20, "loss_mask": [1]}', "loss_mask: a value is not a number"),
    ],
)
def test_a_run_with_a_foreign_line_is_one_line(tmp_path, capsys, line, words):
    """Files get edited and truncated by other tools: the line is named."""
    text = '{"step": 10, "loss_mask": 1.0}\n' + line + "\n"
    (tmp_path / "metrics.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    assert cli.main(["plot", "run", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
