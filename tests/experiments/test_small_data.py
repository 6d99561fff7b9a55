"""The recipes for four small sets, and the queue in processes of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from aape import cli
from aape.commands import table as verb
from aape.commands.recipe import find_grid
from aape.commands.recipes import RUNS
from aape.commands.table import collect
from aape.data.demo import AUDIO
from aape.downstream.tables import markdown, show
from corpus_copies import table
from notes import bass_and_flute

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "experiments/small_data"
GRID = find_grid(str(SMALL))
SETS = ("drums", "letters", "instruments", "effects")


@pytest.mark.parametrize(("name", "recipe"), GRID.recipes.items(), ids=GRID.recipes)
def test_every_recipe_builds(name, recipe):
    kind, _, data = name.partition("-")
    config = cli.parse(RUNS[kind], ["--config", f"{SMALL}/{name}"], verb=kind)
    assert (recipe.verb, config.out, config.data) == (kind, f"runs/small/{name}", f"data/{data}/metadata.csv")
    assert (config.checkpoint, config.seeds, bool(config.fold)) == ("tiny", 3, data != "instruments")


def test_every_cell_has_a_recipe_and_a_run_in_the_queue():
    names = [f"{kind}-{name}" for kind in ("probe", "finetune") for name in SETS]
    assert list(GRID.recipes) == names
    assert [entry.out.name for entry in verb.read_list(str(SMALL))] == names
    tables = collect(GRID, "nowhere")
    assert {cell.run for one in tables for row in one.rows for cell in row} == set(names)
    assert {show(cell) for one in tables for row in one.rows for cell in row} == {"not run"}
    page = (ROOT / "docs/finetuning.md").read_text()
    for line in markdown(tables).splitlines():  # the numbers apart, the page has these tables
        assert line.replace("not run |", "").strip() in page


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The recipes at two steps over eighteen real notes as each of the sets, and an encoder of random weights."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(GRID.path.read_text())
    content["finetune"] |= {"checkpoint": "nano", "batch": 4, "seeds": 1, "device": "cpu"}
    content["probe"] |= {"checkpoint": "nano", "steps": 2, "seeds": 1, "learning_rates": [1e-3], "device": "cpu"}
    Path("small").mkdir()
    Path("small/grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rows = bass_and_flute()
    for number, row in enumerate(rows):
        row |= {"fold": number // 3 % 6, "language": "en"}
    for name in SETS:
        table(Path(f"data/{name}/metadata.csv"), rows)
    cli.main(["pretrain", "--data", str(AUDIO), "--model=nano", "--steps=1", "--clips=2", "--workers=0", "--out=nano"])
    return tmp_path


def test_one_of_each_runs_and_the_table_has_a_column_for_each_yardstick(desk, in_process, capsys):
    """A number under the wrong head is worse than none."""
    commands = in_process()
    names = ("probe-drums", "finetune-drums", "finetune-instruments")
    lines = [f"{name.partition('-')[0]} --config small/{name} --steps 2" for name in names]
    Path("list.txt").write_text("\n".join(lines))
    assert cli.main(["table", "run", "list.txt"]) == 0
    assert len(commands) == 3
    results = {name: json.loads(Path(f"runs/small/{name}/result.json").read_text()) for name in names}
    assert [len(result["partitions"]) for result in results.values()] == [5, 5, 1]
    accuracy, balanced = collect(find_grid("small"))
    for one, metric in ((accuracy, "accuracy"), (balanced, "balanced_accuracy")):
        rows = results["probe-drums"]["rows"]
        expected = [results["finetune-drums"]["scores"]["last"][metric]["mean"]]
        expected += [rows[name]["scores"]["last"][metric]["mean"] for name in rows]
        assert [cell.scores["last"] / 100 for cell in one.rows[0]] == pytest.approx(expected)
        assert show(one.rows[0][1]) == f"{100 * expected[1]:.1f}"
        assert show(one.rows[0][0]).endswith("*")  # 2 steps, where the recipe has more
        assert [show(cell) for cell in one.rows[1]] == ["not run"] * 4
    assert cli.main(["table", "--tables", "small", "--out", "."]) == 0
    assert "| drums, kits in 5 folds |" in Path("tables.md").read_text()
    assert "steps 180 -> 2" in " ".join(capsys.readouterr().out.split())


def test_a_queue_that_is_stopped_stops_its_run_and_goes_on_to_the_same_end(desk, in_process):
    """A run left alive would write into the folder that the restarted queue works in."""
    line = "finetune --config small/finetune-instruments --steps 60 --save-every 5 --crop-frames 16"
    Path("list.txt").write_text(f"{line}\n{line.replace('60', '1')} --out runs/second\n")
    run = Path("runs/small/finetune-instruments")
    with subprocess.Popen([sys.executable, "-m", "aape", "table", "run", "list.txt"]) as process:
        while not list(run.glob("jobs/*/checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert not (run / "result.json").exists()
    assert not Path("runs/second").exists()

    entry = verb.read_list("list.txt")[0]
    hold = "import sys; from aape.runs.lock import locked\nwith locked(sys.argv[1]): print(flush=True), input()"
    with subprocess.Popen([sys.executable, "-c", hold, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"\n"  # free: the run has ended with its queue
        assert verb.execute(entry) == 2  # and now it is not
        holder.communicate(b"\n")

    commands = in_process()
    assert cli.main(["table", "run", "list.txt"]) == 0
    assert ["--resume" in command for command in commands] == [True, False]
    assert cli.main([*line.split(), "--out", "runs/whole"]) == 0
    for name in ("model/model.safetensors", "per_class.csv", "metrics.jsonl"):
        assert (run / name).read_bytes() == (Path("runs/whole") / name).read_bytes()
