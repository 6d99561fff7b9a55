"""From a CSV to a table: which clips count, what is refused, and what the run folder holds."""

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from aape import cli, inference
from aape.commands.probe import ProbeConfig, probe, resolve
from aape.data.clips import load_clip
from aape.data.log_mel import LogMel, time_statistics
from aape.downstream import few_shot, yardsticks
from aape.errors import AapeError, AudioError, ConfigError, DataError
from corpus_copies import make_audioset, make_esc50, make_nsynth, table
from notes import bass_and_flute, read_lines, run_ranks, save_nano

CLASSES = ("low", "mid", "high")
DEFAULT = {"steps": None, "batch": None, "learning_rates": ProbeConfig.learning_rates, "validate_every": 100}


class FakeModel:
    """An encoder whose vectors are a few log-mel bands, or noise if it is untrained."""

    device, pool, layers, loop_to = torch.device("cpu"), "cls_mean", (2,), 0.0

    def __init__(self, seed=None):
        self.log_mel, self.seed, self.num_calls, self.training = LogMel(n_mels=8), seed, 0, {}

    def fingerprint(self):
        return f"fake {self.seed}"

    def embed_clips(self, clips, *, progress=None):
        self.num_calls += 1
        values, bad = [], []
        generator = np.random.default_rng(self.seed)
        for clip in clips:
            try:
                wave = torch.from_numpy(load_clip(clip))
            except AudioError as error:
                bad.append((clip.name, error.reason))
            else:
                trained = time_statistics(self.log_mel(wave[None])[0, 0])[:8].numpy()
                values.append(trained if self.seed is None else generator.normal(size=8).astype(np.float32))
        return np.stack(values), bad


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty-six tones of three heights from three players, in a train and a test split."""
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(36):
        label = CLASSES[index % 3]
        pitch = {"low": 200, "mid": 900, "high": 3000}[label] * generator.uniform(0.9, 1.1)
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(3200) / 16000) + 0.01 * generator.normal(size=3200)
        soundfile.write(folder / f"{index}.wav", wave, 16000)
        split = "test" if index >= 24 else "train"
        row = {"file": f"{index}.wav", "label": label, "split": split, "player": f"p{index // 12}", "take": index % 2}
        rows.append(row)
    return folder, rows


@pytest.fixture
def model(monkeypatch):
    model = FakeModel()
    monkeypatch.setattr(inference, "load_model", lambda name, device, **use: setattr(model, "use", use) or model)
    monkeypatch.setattr(yardsticks, "random_model", lambda _, seed: FakeModel(seed))
    return model


@pytest.fixture
def probe_rows(folder, tmp_path, model):
    """Probe a table of these rows; changes are options."""

    def call(rows=folder[1], **changes):
        data = tmp_path / "table.csv"
        table(data, [{**row, "file": str(folder[0] / row["file"])} for row in rows])
        options = {"split": "split", "steps": 40, "batch": 8, "seeds": 2, "learning_rates": (1e-2, 3e-2)}
        config = ProbeConfig(data=str(data), checkpoint="fake", out=str(tmp_path / "run"))
        return probe(dataclasses.replace(config, **{**options, "validate_every": 20, **changes}))

    return call


def test_the_run_folder_holds_everything_and_the_table_both_yardsticks(probe_rows, tmp_path, capsys):
    result = probe_rows()
    assert list(result["rows"]) == ["encoder", "untrained encoder", "log-mel statistics"]
    accuracies = {name: row["scores"]["last"]["accuracy"]["mean"] for name, row in result["rows"].items()}
    assert accuracies["encoder"] > 0.9
    assert accuracies["untrained encoder"] < 0.7  # noise
    assert result["margins_of_the_encoder"]["untrained encoder"]["accuracy"]["interval"][0] > 0
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["rows"]["encoder"]["scores"]["last"]["accuracy"]["mean"] == accuracies["encoder"]
    assert written["rows"]["encoder"]["scores"]["best_on_validation"] is None
    assert written["partitions"][0]["num_train"] == 24
    assert written["config"]["seeds"] == 2
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["features"], line["step"]) for line in lines[:2]] == [("encoder", 20), ("encoder", 40)]
    with open(tmp_path / "run" / "results.csv", newline="") as file:
        cells = {(row["features"], row["score"], row["metric"]): row["mean"] for row in csv.DictReader(file)}
    assert float(cells["encoder", "last", "accuracy"]) == pytest.approx(accuracies["encoder"], abs=1e-6)
    assert cells["encoder", "best_on_validation", "accuracy"] == "n/a"
    assert {"config.yaml", "environment.json", "features"} <= {file.name for file in (tmp_path / "run").iterdir()}
    shown = capsys.readouterr().out
    assert "log-mel" in shown
    assert "n/a" in shown
    assert "…" not in shown  # no number is cut short, at 80 columns either


def test_the_same_seeds_give_the_same_numbers_and_the_features_are_read_back(probe_rows, model):
    first = probe_rows()
    second = probe_rows()
    assert first["rows"] == second["rows"]
    assert model.num_calls == 1


def test_another_run_in_the_folder_is_not_written_over(probe_rows, folder, model, tmp_path, monkeypatch):
    """Days of fine-tuning, or the number of another encoder, would be gone."""
    probe_rows(yardsticks=False)
    monkeypatch.chdir(tmp_path)
    probe_rows(yardsticks=False, data="table.csv", steps=60)  # the same from elsewhere
    assert model.num_calls == 1
    before = (tmp_path / "run/result.json").read_bytes()
    (tmp_path / "other.csv").write_text((tmp_path / "table.csv").read_text())
    for changes, words in (
        ({"checkpoint": "other"}, "holds a run whose checkpoint is fake, not other: choose another --out"),
        ({"data": "other.csv"}, "whose data is table.csv, not other.csv"),
        ({"task": "esc50", "split": None}, "whose task is csv, not esc50"),
    ):
        with pytest.raises(ConfigError, match=words):
            probe_rows(**changes)
    for content in ("data: d\ncheckpoint: fake\noptim: {ema: 0.9}\n", "[", ""):
        (tmp_path / "run/config.yaml").write_text(content)
        with pytest.raises(ConfigError, match=r"holds a run of another kind, .*: choose another --out"):
            probe_rows()
    (tmp_path / "run/config.yaml").unlink()
    with pytest.raises(ConfigError, match="holds a result without its options"):
        probe_rows()
    assert (tmp_path / "run/result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("protocol", "draws", "head"), [("few-shot", 10, "8 clips a class, 10 draws"), ("knn", 1, "10 neighbours")]
)
def test_a_protocol_without_steps_gives_the_same_files_and_yardsticks(
    probe_rows, model, tmp_path, capsys, protocol, draws, head
):
    """One embedding serves all protocols, and no number of one is left beside those of another."""
    options = {"split": None, "fold": "player"}
    linear = probe_rows(**options)
    capsys.readouterr()
    result = probe_rows(**options, protocol=protocol, **DEFAULT)
    assert model.num_calls == 1
    assert [part["name"] for part in result["partitions"]] == ["p0", "p1", "p2"]
    assert list(result["rows"]) == list(linear["rows"])
    for name, row in result["rows"].items():
        last = row["scores"]["last"]
        repeats = 2 if (protocol, name) == ("knn", "untrained encoder") else draws
        assert np.shape(last["accuracy"]["values"]) == (repeats, 3)
        assert last["accuracy"]["mean"] == pytest.approx(np.mean(last["accuracy"]["values"]))
        low, high = last["balanced_accuracy"]["interval"]
        assert low <= last["balanced_accuracy"]["mean"] <= high
        assert list(row["scores"]) == ["last"]
    means = [row["scores"]["last"]["f1"]["mean"] for row in result["rows"].values()]
    assert means[1] < 0.7 < means[0]
    assert result["margins_of_the_encoder"]["untrained encoder"]["accuracy"]["interval"][0] > 0
    assert json.loads((tmp_path / "run/result.json").read_text())["config"]["protocol"] == protocol
    assert not (tmp_path / "run/metrics.jsonl").exists()
    with open(tmp_path / "run/results.csv", newline="") as file:
        cells = {(row["features"], row["score"], row["metric"]): float(row["mean"]) for row in csv.DictReader(file)}
    assert cells["encoder", "last", "f1"] == pytest.approx(means[0], abs=1e-6)
    assert len(cells) == 3 * 3
    shown = capsys.readouterr().out
    assert head in " ".join(shown.split())
    assert not {"best", "n/a", "…"} & {*shown.split()}


def test_few_shots_say_what_is_scarce_and_what_has_not_converged(probe_rows, folder, capsys, monkeypatch):
    """As in mteb, a class with fewer clips gives all, and a fit that has not converged counts: a reader must know."""
    monkeypatch.setattr(few_shot, "MAX_ITERATIONS", 5)
    rows = [row for row in folder[1] if row["label"] != "mid" or row["take"] or row["split"] == "test"]
    result = probe_rows(rows, protocol="few-shot", **DEFAULT)
    scarce, encoder, *_ = result["warnings"]
    assert scarce == "all training clips are taken of classes that have fewer than 8: mid"
    assert encoder == "encoder: 10 of 10 fits have not converged in 5 iterations; mteb scores such, too"
    assert result["rows"]["encoder"]["not_converged"] == 10
    assert capsys.readouterr().err.count("converge") == len(result["warnings"]) - 1


def test_only_few_shots_need_scikit_learn(probe_rows, model, monkeypatch):
    """Somebody without it must hear of it before the embedding, and needs it for nothing else."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(few_shot, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'aape\\[sklearn\\]'"):
        probe_rows(protocol="few-shot", **DEFAULT)
    assert model.num_calls == 0
    probe_rows(protocol="knn", **DEFAULT)
    probe_rows()


def test_every_player_is_left_out_once(probe_rows):
    result = probe_rows(split=None, fold="player", yardsticks=False)
    assert [part["name"] for part in result["partitions"]] == ["p0", "p1", "p2"]
    assert [part["num_validation"] for part in result["partitions"]] == [12, 12, 12]
    assert list(result["rows"]) == ["encoder"]
    assert np.shape(result["rows"]["encoder"]["scores"]["best_on_validation"]["accuracy"]["values"]) == (2, 3)


def test_public_sets_are_probed_by_their_own_protocol(model, tmp_path):
    """`aape probe --task esc50 --data ESC-50-master` is all that a cell of the table takes."""
    options = {"checkpoint": "fake", "out": str(tmp_path / "run"), "seeds": 1, "yardsticks": False}
    options |= {"learning_rates": (1e-2,), "steps": 20, "batch": 8}
    result = probe(ProbeConfig(task="esc50", data=str(make_esc50(tmp_path / "esc50")), **options))
    options["out"] = str(tmp_path / "other")
    assert [part["name"] for part in result["partitions"]] == list("12345")
    assert result["counts"] == {"clips": (20, 2000)}
    assert model.use == {"pool": None, "layers": None, "loop_to": None}  # the paper does not probe it
    assert any("20 clips found (clips), 2,000 published" in warning for warning in result["warnings"])

    root = make_nsynth(tmp_path / "nsynth")
    nsynth = ProbeConfig(task="nsynth", data=str(root), **{**options, "steps": None, "batch": None})
    assert (resolve(nsynth).steps, resolve(nsynth).batch) == (50_000, 512)
    result = probe(dataclasses.replace(nsynth, steps=20))
    assert result["partitions"][0]["num_validation"] == 3
    assert result["config"]["batch"] == 512
    assert model.use == {"pool": "cls_mean", "layers": [], "loop_to": 0}  # the paper's, whatever the model recommends

    options["out"] = str(tmp_path / "third")
    with pytest.raises(ConfigError, match="as20k has several labels per clip"):
        probe(ProbeConfig(task="as20k", data=str(make_audioset(tmp_path / "audioset")), **options))


def test_where_keeps_the_rows_it_names_and_groups_follow(probe_rows):
    result = probe_rows(where="take=0", group="player")
    assert result["num_clips"] == 18
    assert "group" in result["rows"]["encoder"]["sweep"]["validation"]


def test_a_bad_file_is_left_out_named_and_counted(probe_rows, folder, capsys):
    (folder[0] / "broken.wav").write_bytes(b"RIFF")
    rows = [{**folder[1][0], "file": "broken.wav"}, *folder[1]]
    result = probe_rows(rows, max_bad_fraction=0.05)
    assert (result["num_clips"], result["num_bad"]) == (36, 1)
    assert result["bad"][0]["file"].endswith("broken.wav")
    assert "left out: " in capsys.readouterr().err
    # The same numbers as without the file: no vector has slipped to another clip's label.
    assert result["rows"]["encoder"]["scores"] == probe_rows()["rows"]["encoder"]["scores"]
    with pytest.raises(DataError, match="1 of 37 clips cannot be read"):
        probe_rows(rows)


def test_classes_that_cannot_be_learnt_are_counted_in_a_warning(probe_rows, folder):
    rows = [dict(row) for row in folder[1]]
    rows[30]["label"] = rows[33]["label"] = "unheard"
    rows[0]["label"] = "once"
    result = probe_rows(rows, yardsticks=False)
    assert result["partitions"][0]["unseen_classes"] == ["unheard"]
    assert result["partitions"][0]["num_unseen"] == 2
    assert any("2 test clips are of classes" in warning and "unheard" in warning for warning in result["warnings"])
    assert any("a single clip" in warning and "once" in warning for warning in result["warnings"])
    recall = dict(zip(result["classes"], result["rows"]["encoder"]["recall"], strict=True))
    assert recall["unheard"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"split": None}, ConfigError, "--split COLUMN or --fold COLUMN: neither is given"),
        ({"fold": "player"}, ConfigError, "both are given"),
        ({"task": "us8k"}, ConfigError, "--split is for --task csv: UrbanSound8K brings its own protocol"),
        ({"num_folds": 2, "split": None, "fold": "player", "min_fold_clips": 37}, DataError, "no fold has 37 clips"),
        ({"num_folds": 4, "split": None, "fold": "player"}, DataError, "3 folds cannot become 4"),
        ({"label": "genre"}, DataError, "no label column 'genre'; it has file, label"),
        ({"split": "player"}, DataError, "unknown split 'p0'"),
        ({"split": None, "fold": "player", "min_fold_clips": 13}, DataError, "no fold has 13 clips"),
        ({"where": "player"}, ConfigError, "expected COLUMN=VALUE"),
        ({"where": "player=p9"}, DataError, "no clip has player = 'p9'; there are p0, p1, p2"),
        ({"where": "label=low"}, DataError, "the only label is 'low'"),
        ({"where": "conductor=p1"}, DataError, "conductor"),
        ({"split": None, "fold": "label", "where": "take=0", "label": "label"}, None, None),
    ],
)
def test_what_makes_no_protocol_is_refused_before_any_embedding(probe_rows, model, tmp_path, changes, error, words):
    if error is None:
        # A fold per class: every test clip is of a class its training set lacks. Useless, and the result says so.
        result = probe_rows(**changes, yardsticks=False)
        assert sum(part["num_unseen"] for part in result["partitions"]) == result["num_clips"]
        return
    with pytest.raises(error, match=words) as caught:
        probe_rows(**changes)
    assert "\n" not in str(caught.value)
    assert model.num_calls == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("protocol", ["few-shot", "knn"])
def test_options_of_steps_are_refused_where_there_are_none(capsys, protocol):
    """A budget that is ignored would stand in the run's options as if it had been used."""
    command = ["probe", "--data=d.csv", "--checkpoint=tiny", "--out=run", f"--protocol={protocol}"]
    for option in ("--steps=9", "--batch=9", "--learning-rates=1e-2", "--validate-every=9"):
        assert cli.main([*command, option]) == 2
        name = option[2:].partition("=")[0].replace("-", "_")
        expected = f"aape: error: {name}: for --protocol linear only, {protocol} has no steps\n"
        assert capsys.readouterr().err == expected


@pytest.mark.parametrize("changes", [{"steps": 0}, {"seeds": 0}, {"learning_rates": ()}, {"learning_rates": (0.0,)}])
def test_numbers_that_make_no_run_are_refused_by_name(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        ProbeConfig(data="a.csv", checkpoint="tiny", out="run", **changes)


def test_a_folder_without_labels_is_refused_in_one_line(folder, tmp_path, model):
    with pytest.raises(AapeError, match="only a CSV has columns"):
        probe(ProbeConfig(data=str(folder[0]), checkpoint="fake", out=str(tmp_path / "run"), split="split"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    save_nano(folder / "nano")
    table(folder / "notes.csv", bass_and_flute())
    options = {"data": folder / "notes.csv", "checkpoint": folder / "nano", "out": folder / "run", "device": "cpu"}
    options |= {"split": "split", "steps": 100, "validate-every": 20, "batch": 16, "seeds": 2}
    return folder, [f"--{name}={value}" for name, value in options.items()]


def test_the_command_line_probes_real_notes_beside_both_yardsticks(arguments, capsys):
    folder, options = arguments
    assert cli.main(["probe", *options]) == 0
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["rows"]["encoder"]["num_features"] == 2 * 64  # class token and mean patch token
    assert result["rows"]["log-mel statistics"]["num_features"] == 4 * 128
    # Bass and flute are easy: features that cannot tell them apart belong to other clips.
    assert result["rows"]["log-mel statistics"]["scores"]["last"]["accuracy"]["mean"] > 0.6
    for row in result["rows"].values():
        assert row["scores"]["best"]["accuracy"]["mean"] >= row["scores"]["last"]["accuracy"]["mean"]
    values = result["rows"]["untrained encoder"]["scores"]["last"]["accuracy"]["values"]
    assert len(values) == 2  # one random initialisation per seed
    captured = capsys.readouterr()
    assert "untrained" in captured.out
    assert "…" not in captured.out  # no number is cut short, at 80 columns either

    assert cli.main(["probe", *options]) == 0
    again = json.loads((folder / "run" / "result.json").read_text())
    assert again["rows"] == result["rows"]


def test_the_vector_that_is_probed_is_chosen_and_recorded(arguments, capsys):
    """A number without its vector cannot be compared; features of another one must not be read back."""
    folder, options = arguments
    options = [*options, f"--out={folder / 'vectors'}", "--seeds=1", "--steps=20", "--learning-rates=1e-2"]
    for more, width, vector in (
        ([], 2 * 64, {"pool": "cls_mean", "layers": [2], "loop_to": 0.0}),
        (
            ["--pool=frequency_std", "--layers=1,2"],
            2 * 8 * 64,
            {"pool": "frequency_std", "layers": [1, 2], "loop_to": 0.0},
        ),
        (["--pool", "mean", "--layers", "1"], 64, {"pool": "mean", "layers": [1], "loop_to": 0.0}),
    ):
        assert cli.main(["probe", *options, *more]) == 0
        result = json.loads((folder / "vectors/result.json").read_text())
        assert result["vector"] == vector
        assert [result["rows"][row]["num_features"] for row in ("encoder", "untrained encoder")] == [width, width]
    capsys.readouterr()
    for wrong, reason in (
        ("--pool=max", "expected one of cls_mean, frequency, frequency_std, cls, mean or null, got 'max'"),
        ("--layers=3", "layers: the encoder has blocks 1 to 2, and no 3"),
        ("--layers=0", "layers: the encoder has blocks 1 to 2, and no 0"),
        ("--layers=1,1", "layers: a block is named twice in [1, 1]"),
        ("--layers=last", "--layers: expected a list [a whole number from 0 and below 2^63, ...] or null, got 'last'"),
    ):
        assert cli.main(["probe", *options, wrong]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_a_missing_label_column_is_one_line_and_exit_status_2(arguments, capsys):
    _, options = arguments
    assert cli.main(["probe", *options, "--label=genre"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("aape: error: ")
    assert error.count("\n") == 1
    assert "genre" in error


def test_two_processes_embed_what_one_does(arguments, tmp_path):
    """Large sets are embedded on several devices: same vectors in the same order, same bad files, one writer."""
    _, options = arguments
    rows = bass_and_flute()
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows.insert(5, {**rows[5], "file": str(tmp_path / "broken.wav")})
    table(tmp_path / "notes.csv", rows)
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"run-{ranks}"
        changes = [f"--data={tmp_path / 'notes.csv'}", f"--out={out}", "--max-bad-fraction=0.1", "--seeds=1"]
        done = run_ranks(ranks, "-m", "aape", "probe", *options, *changes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"-> {out}") == 1
        assert done.stderr.count("left out: ") == 1
        results.append(json.loads((out / "result.json").read_text()))
        with np.load(out / "features" / "encoder.npz") as arrays:
            results[-1]["features"] = arrays["features"]
    one, two = results
    np.testing.assert_allclose(one["features"], two["features"], atol=1e-5)
    assert one["bad"] == two["bad"]
    assert one["num_bad"] == 1
    for name, row in one["rows"].items():
        last = row["scores"]["last"]["accuracy"]["mean"]
        assert two["rows"][name]["scores"]["last"]["accuracy"]["mean"] == pytest.approx(last, abs=1e-6), name
