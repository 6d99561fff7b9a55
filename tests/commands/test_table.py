"""The paper's tables: every cell has a recipe that builds, the queue goes on, no number is dressed up."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from aape import cli
from aape.commands import table as verb
from aape.commands.finetune import resolve
from aape.commands.recipe import find_grid
from aape.commands.recipes import RUNS, resolved
from aape.commands.table import QueueConfig, collect
from aape.data.demo import AUDIO
from aape.downstream.tables import markdown, show
from aape.errors import AapeError, ConfigError, DataError
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.predictor import build_predictor
from corpus_copies import MAKERS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "src/aape/recipes"
PAPER = find_grid("paper")
CELLS = [name for name, recipe in PAPER.recipes.items() if recipe.verb != "pretrain"]
SETTINGS = {
    "aape-con0.01": {"loss.contrastive_weight": 0.01},
    "aape-con0.001": {"loss.contrastive_weight": 0.001},
    "patch-con0.01": {"encoder.stem": "patch", "loss.contrastive_weight": 0.01},
    "patch-con0.001": {"encoder.stem": "patch", "loss.contrastive_weight": 0.001},
    "patch-con0.1": {"encoder.stem": "patch"},
    "fixed": {"encoder.adaptive": False},
    "k31": {"encoder.kernel_size": 31},
    "k127": {"encoder.kernel_size": 127},
    "cnn": {"predictor.kind": "cnn"},
    "analytic": {"encoder.phase": "analytic"},
    "mask-context": {"encoder.mask_context": True},
    "channel-norm": {"loss.target_norm": "channel"},
    "eat-loss": {"loss.reduction": "eat"},
}


@pytest.mark.parametrize(("name", "recipe"), PAPER.recipes.items(), ids=PAPER.recipes)
def test_every_recipe_builds(name, recipe):
    """A recipe that does not fit its model fails a week into the queue."""
    config = cli.parse(RUNS[recipe.verb], ["--config", f"paper/{name}"], verb=recipe.verb)
    assert config.out == f"runs/paper/{recipe.verb}/{name}"
    if recipe.verb != "pretrain":
        encoder, _, task = name.rpartition("-")
        assert (config.task, config.checkpoint, config.seeds) == (task, f"runs/paper/pretrain/{encoder}", 3)
        assert PAPER.recipes[encoder].verb == "pretrain"
    if recipe.verb == "finetune":
        assert resolve(config).optim.learning_rate > 0
    if recipe.verb == "pretrain":
        assert (config.steps, config.clips, config.masking.num_views) == (600_000, 32, 16)
        with torch.device("meta"):
            AudioEncoder(encoder_config(config.model, **config.encoder))
            build_predictor(config.predictor, 768, (8, 38))


@pytest.mark.parametrize(("name", "settings"), SETTINGS.items(), ids=SETTINGS.keys())
def test_a_variant_differs_from_the_paper_s_model_in_what_its_name_says_alone(name, settings):
    ours, base = (resolved(PAPER.recipes[each]) for each in (name, "aape"))
    assert {key: value for key, value in ours.items() if base.get(key) != value and key != "out"} == settings


def test_every_cell_has_a_recipe_a_run_in_the_queue_and_a_line_in_the_readme():
    entries = verb.read_list("paper")
    assert [entry.arguments for entry in entries] == [
        [recipe.verb, "--config", f"paper/{name}"] for name, recipe in PAPER.recipes.items()
    ]
    positions = {str(entry.out): position for position, entry in enumerate(entries)}
    for name in CELLS:
        settings = resolved(PAPER.recipes[name])
        assert positions[settings["checkpoint"]] < positions[settings["out"]]  # an encoder before what starts from it
    tables = collect(PAPER, "nowhere")
    cells = {cell.recipe for table in tables for row in table.rows for cell in row}
    assert cells == {f"paper/{name}" for name in CELLS} | {
        f"paper/{name}" for name in ("patch-con0.1", "fixed", "aape", "k31", "k127", "cnn")
    }
    assert markdown(tables) in (RECIPES / "README.md").read_text()


def test_parameters_and_operations_are_measured_and_the_rest_is_not_run():
    """What stands beside the paper's value is computed, or says that it is not."""
    measured = {}
    for table in collect(PAPER, "nowhere"):
        for cell in (cell for row in table.rows for cell in row):
            if cell.scores is None:
                assert show(cell) == "not run"
            else:
                measured[cell.run, cell.column] = (cell.scores["value"], cell.paper)
    assert len(measured) == 6
    for ours, paper in measured.values():
        assert ours == pytest.approx(paper, abs=0.03)


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A copy of the recipes at nano size over small real data: three cells and their encoder."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(PAPER.path.read_text())
    short = {"steps": 2, "seeds": 1}
    content["pretrain"] = {"data": str(AUDIO), "model": "nano", "steps": 2, "clips": 2, "workers": 0}
    content["pretrain"]["masking"] = {"num_views": 2}
    content["finetune"] = {**short, "batch": 2, "workers": 0, "evaluations": 1, "num_frames": 64}
    content["probe"] = {**short, "batch": 4, "learning_rates": [1e-3], "yardsticks": False}
    Path("small").mkdir()
    Path("small/grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    MAKERS["esc50"](tmp_path / "data/ESC-50-master")
    MAKERS["as20k"](tmp_path / "data/audioset")
    MAKERS["us8k"](tmp_path / "data/UrbanSound8K")
    lines = ["pretrain --config small/aape --device cpu  # first", ""]
    lines += [f"finetune --config small/aape-{task} --device=cpu" for task in ("esc50", "as20k")]
    lines.append("probe --config small/aape-us8k --device cpu")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return tmp_path


def test_the_queue_runs_one_of_each_kind_and_the_table_says_what_they_are(paper, in_process, capsys):
    """A number from two steps at nano must never pass for the paper's experiment."""
    commands = in_process()
    assert cli.main(["table", "run", "list.txt"]) == 0
    assert [command[0] for command in commands] == ["pretrain", "finetune", "finetune", "probe"]
    assert cli.main(["table", "run", "list.txt"]) == 0
    assert len(commands) == 4  # all done already
    assert "done already" in capsys.readouterr().out

    cells = {(cell.run, cell.column): cell for table in collect(PAPER) for row in table.rows for cell in row}
    esc50 = cells["finetune/aape-esc50", "ESC-50 accuracy"]
    result = json.loads(Path("runs/paper/finetune/aape-esc50/result.json").read_text())
    assert esc50.scores["last"] == pytest.approx(100 * result["scores"]["last"]["accuracy"]["mean"])
    assert esc50.paper == 97.5
    notes = "; ".join(esc50.notes)
    for words in ("steps 8000 -> 2", "seeds 3 -> 1", "batch 128 -> 2", "pre-training: model base -> nano",
                  "pre-training: steps 600000 -> 2", "ESC-50: 20 of 2,000 clips"):  # fmt: skip
        assert words in notes
    assert show(esc50).endswith("*")
    assert "mAP" in cells["finetune/aape-as20k", "AS-20K mAP"].column
    assert cells["finetune/aape-as20k", "AS-20K mAP"].scores is not None
    assert cells["probe/aape-us8k", "US8K accuracy"].scores is not None
    speed = cells["pretrain/aape", "batches per second"]
    assert speed.scores["value"] > 0
    assert show(speed).endswith("*")
    assert {"model base -> nano", "steps 600000 -> 2"} <= set(speed.notes)
    assert cells["finetune/cnn-esc50", "ESC-50 accuracy"].scores is None

    # Beside its own recipe the very same run differs in nothing but its data.
    small = {cell.run: cell for table in collect(find_grid("small"))
           for row in table.rows for cell in row}  # fmt: skip
    assert all("clips" in note for note in small["finetune/aape-esc50"].notes)

    assert cli.main(["table", "--out", "tables"]) == 0
    shown = capsys.readouterr().out
    assert "not run" in shown
    assert "steps 8000 -> 2" in " ".join(shown.split())
    text = Path("tables/tables.csv").read_text()
    assert "not run" in text
    assert "finetune/aape-esc50,97.5," in text
    assert "aape finetune --config paper/aape-esc50" in Path("tables/tables.md").read_text()


NUM_CLIPS = 2_063_949  # of AudioSet


def cell_of(folder, name, **pretraining):
    """Return a row's ESC-50 cell: its run is the recipe's, from an encoder that was trained with these options."""
    run = folder / f"finetune/{name}-esc50"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(resolved(PAPER.recipes[run.name])))
    scores = {"last": {"accuracy": {"mean": 0.5}}, "best": {"accuracy": {"mean": 0.5}}}
    result = {"task": "esc50", "counts": {"clips": (2000, 2000)}, "scores": scores, "pretraining": pretraining}
    (run / "result.json").write_text(json.dumps(result))
    cells = (cell for table in collect(PAPER, str(folder)) for row in table.rows for cell in row)
    return next(cell for cell in cells if cell.run == f"finetune/{name}-esc50")


def saved(name, **changes):
    """Return what a model says of its training by a recipe."""
    settings = resolved(PAPER.recipes[name])
    return {**settings, "num_clips": NUM_CLIPS, **changes}


def test_the_paper_s_own_run_gets_no_star(tmp_path):
    """A star on everything says nothing."""
    for name in ("aape", "patch-con0.1", "k31"):
        assert cell_of(tmp_path, name, **saved(name)).notes == ()
        assert not show(cell_of(tmp_path, name, **saved(name, device="cuda", tensorboard=True))).endswith("*")
    spelt_out = {"encoder.stem": "aape", "encoder.embed_dim": 768}
    assert cell_of(tmp_path, "aape", **saved("aape", **spelt_out)).notes == ()
    old = {key: value for key, value in saved("aape").items() if not key.startswith("loss.statistics")}
    assert cell_of(tmp_path, "aape", **old).notes == ()


@pytest.mark.parametrize(
    ("name", "pretraining", "note"),
    [
        ("patch-con0.1", saved("aape"), "encoder.stem patch -> aape"),
        ("fixed", saved("aape"), "encoder.adaptive False -> True"),
        ("k31", saved("aape"), "encoder.kernel_size 31 -> 63"),
        ("aape", saved("k31"), "encoder.kernel_size 63 -> 31"),
        ("aape", saved("aape", num_clips=100), "100 of 2,063,949 clips"),
        ("aape", saved("aape", num_clips=None), "unknown of 2,063,949 clips"),
        ("aape", saved("aape", init="tiny"), "init None -> tiny"),
    ],
)
def test_another_encoder_never_fills_a_cell_without_a_star(tmp_path, name, pretraining, note):
    """The plain model in the row of the standard stem would be the paper's ablation turned on its head."""
    cell = cell_of(tmp_path, name, **pretraining)
    assert cell.notes == (f"pre-training: {note}",)
    assert show(cell).endswith("*")


def test_a_model_says_which_one_it_started_from(tmp_path, monkeypatch):
    """Six hundred thousand steps from another model's weights are not the paper's."""
    monkeypatch.chdir(tmp_path)
    options = ["--data", str(AUDIO), "--model=nano", "--steps=1", "--clips=2", "--workers=0", "--device=cpu"]
    assert cli.main(["pretrain", *options, "--out=first"]) == 0
    assert cli.main(["pretrain", *options, "--init=first/model", "--out=second"]) == 0
    trainings = [json.loads(Path(name, "model/config.json").read_text())["training"] for name in ("first", "second")]
    assert [training["init"] for training in trainings] == [None, "first"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--checkpoint RUN", "checkpoint .*nano -> RUN"),
        ("--steps=3", "steps 2 -> 3"),
        ("--no-yardsticks --seeds 2", "seeds 1 -> 2"),
        ("--learning-rates 1e-3,1e-2", r"learning_rates \[0.001\] -> \[0.001, 0.01\]"),
    ],
)
def test_a_line_with_other_options_than_its_finished_run_is_refused_before_anything_starts(
    tmp_path, monkeypatch, options, words
):
    """With another `--checkpoint` in its lines, the table would go on showing the numbers of `tiny`."""
    monkeypatch.chdir(tmp_path)
    line = (
        "probe --data data/set.csv --checkpoint nano --split split --seeds 1 --steps 2 --learning-rates 1e-3 --out RUN"
    )
    line = f"{line} --no-yardsticks"
    finished = {"data": str(tmp_path / "data/set.csv"), "checkpoint": "nano", "out": "elsewhere", "task": "csv"}
    finished |= {"split": "split", "seeds": 1, "steps": 2, "learning_rates": [1e-3], "yardsticks": False, "gone": 1}

    def execute(entry):
        entry.out.mkdir()
        # As if by a version with fewer options, and one more
        (entry.out / "config.yaml").write_text(yaml.safe_dump(finished))
        (entry.out / "result.json").write_text("{}")
        return 0

    monkeypatch.setattr(verb, "execute", execute)
    words = rf"^RUN holds a run of other options than .*\({words}\): choose another --out"
    Path("list.txt").write_text(f"{line}\n{line} {options}\n")
    with pytest.raises(ConfigError, match=words):  # after the line above it
        verb.run(QueueConfig(["list.txt"]))
    monkeypatch.setattr(verb, "execute", None)
    Path("list.txt").write_text(f"{line.replace('RUN', 'new')}\n{line} {options}\n")
    with pytest.raises(ConfigError, match=words):
        verb.run(QueueConfig(["list.txt"]))
    Path("list.txt").write_text(f"{line} --device cpu --max-bad-fraction 0.5\n")
    verb.run(QueueConfig(["list.txt"]))


def test_a_run_that_was_begun_is_continued_and_a_failure_does_not_stop_the_rest(paper, monkeypatch):
    monkeypatch.setattr(verb, "execute", None)
    Path("runs/paper/finetune/aape-esc50").mkdir(parents=True)
    Path("runs/paper/finetune/aape-esc50/config.yaml").write_text("{}")
    entries = verb.read_list("list.txt")
    assert [entry.command()[-1] for entry in entries] == ["cpu", "--resume", "--device=cpu", "cpu"]

    commands = []

    def fails(entry):
        command = entry.command()
        commands.append(command)
        return 2 if command[3] == "finetune" else 0

    monkeypatch.setattr(verb, "execute", fails)
    with pytest.raises(AapeError, match="2 of 4 runs failed: runs/paper/finetune/aape-esc50, "):
        verb.run(QueueConfig(["list.txt"]))
    assert len(commands) == 4
    monkeypatch.setattr(verb, "execute", lambda entry: -9)  # out of memory
    with pytest.raises(AapeError, match="4 of 4 runs failed"):
        verb.run(QueueConfig(["list.txt"]))
    for status in (130, 143, -15):  # stopped: so is the list
        monkeypatch.setattr(verb, "execute", lambda entry, status=status: status)
        with pytest.raises(SystemExit):
            verb.run(QueueConfig(["list.txt"]))
    monkeypatch.setattr(verb, "execute", fails)
    with pytest.raises(AapeError, match="1 of 4 runs failed"):
        verb.run(QueueConfig(["list.txt"], keep_going=False))
    assert len(commands) == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bake --config a.yaml", "line 2: 'bake' is no run: choose one of pretrain, finetune, probe"),
        ("finetune --config nowhere.yaml", "line 2: cannot read the recipe nowhere.yaml"),
        ("finetune --config paper/aape", "line 2: paper/aape is a recipe for `aape pretrain`, not for `aape finetune`"),
        ("finetune --task esc50 --data d --checkpoint tiny", "line 2: missing required --out"),
        ("finetune --config 'a.yaml", "line 2: No closing quotation"),
    ],
)
def test_a_line_that_is_no_run_is_refused_before_anything_starts(tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verb, "execute", None)
    Path("list.txt").write_text(f"probe --data d --checkpoint tiny --out o\n{line}\n")
    with pytest.raises(ConfigError, match=words):
        verb.run(QueueConfig(["list.txt"]))
    with pytest.raises(ConfigError, match=r"cannot read the list other.txt"):
        verb.run(QueueConfig(["other.txt"]))


def test_damaged_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no grid of recipes .*, or one of paper"):
        find_grid(str(tmp_path))
    (tmp_path / "grid.yaml").write_text("out: o\ncolumns: {}\ntables: 3\n")
    with pytest.raises(ConfigError, match="no tables, or damaged ones"):
        collect(find_grid(str(tmp_path)))
    (tmp_path / "grid.yaml").write_text("out: o\ntasks: [3]\n")
    with pytest.raises(ConfigError, match="not a grid of recipes"):
        find_grid(str(tmp_path / "grid.yaml"))
    (tmp_path / "grid.yaml").write_text("out: o\ntask: {}\n")
    with pytest.raises(ConfigError, match="did you mean 'tasks'"):
        find_grid(str(tmp_path))
    run = tmp_path / "runs/finetune/aape-esc50"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{")
    with pytest.raises(DataError, match="not the result of a run"):
        collect(PAPER, str(tmp_path / "runs"))
