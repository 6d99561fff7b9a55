"""Recipes by name: what a user types, wherever the package is installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aape
from aape import cli
from aape.commands.options import parse
from aape.commands.pretrain import PretrainConfig
from aape.commands.recipe import find_recipe, shipped_recipes
from aape.commands.recipes import RUNS, resolved
from aape.commands.table import read_list
from aape.errors import ConfigError

NEEDED = ["--data", "d", "--out", "o"]


def test_a_name_is_a_recipe_and_the_command_line_overrides_it():
    """`--config tiny` is all that the README asks anybody to type."""
    config = parse(PretrainConfig, ["--config", "tiny", "--steps", "9", *NEEDED], verb="pretrain")
    assert (config.model, config.steps, config.loss.target_norm) == ("tiny", 9, "channel")


def test_the_list_names_each_with_its_verb_and_what_it_is(capsys):
    """A recipe that is not listed is never used."""
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shipped_recipes())
    for line, (name, recipe) in zip(lines, shipped_recipes().items(), strict=True):
        assert re.fullmatch(rf"{re.escape(name)} +{recipe.verb} +\S.{{10,}}", line)
        assert recipe.verb in RUNS
    assert cli.main(["recipes", "paper"]) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in lines if line.startswith("paper/")]


@pytest.mark.parametrize("name", shipped_recipes())
def test_what_is_printed_is_the_same_recipe(name, tmp_path, capsys):
    """A copy to edit must start out as the original, or every comparison with it is off."""
    assert cli.main(["recipes", name]) == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(capsys.readouterr().out)
    recipe, again = find_recipe(name), find_recipe(str(copy))
    assert (again.verb, resolved(again)) == (recipe.verb, resolved(recipe))
    assert recipe.about in again.about
    needed = [] if "out" in resolved(recipe) else NEEDED
    configs = [parse(RUNS[recipe.verb], ["--config", one, *needed], verb=recipe.verb) for one in (name, str(copy))]
    assert configs[0].out == configs[1].out


def test_a_file_comes_before_a_name_and_may_start_from_one(tmp_path, monkeypatch):
    """A user who has a file called `tiny` means that one."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_text("base: paper/k31\nsteps: 5\n")
    config = parse(PretrainConfig, ["--config", "tiny"], verb="pretrain")
    assert (config.steps, config.encoder, config.clips) == (5, {"kernel_size": 31}, 32)
    Path("runs").mkdir()
    Path("runs/mine.yaml").write_text("base: ../tiny\nclips: 4\n")
    assert parse(PretrainConfig, ["--config", "runs/mine.yaml"]).clips == 4
    Path("tiny").unlink()
    Path("tiny").mkdir()  # a run of that name is no recipe
    assert parse(PretrainConfig, ["--config", "tiny", *NEEDED]).steps == 12500


def test_a_folder_with_a_grid_works_as_the_package_s_own(tmp_path, monkeypatch):
    """Whoever has encoders and sets of their own writes down each once, too."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/grid.yaml").write_text(
        "out: runs/{name}\npretrain: {data: d, steps: 5}\n"
        "encoders: {a: {about: one}, b: {about: two, encoder: {depth: 2}}}\n"
        "tasks: {t: {verb: probe, about: a set, data: t.csv, split: split, encoders: [b]}}\n"
    )
    assert parse(PretrainConfig, ["--config", "mine/b"], verb="pretrain").encoder == {"depth": 2}
    probe = parse(RUNS["probe"], ["--config", "mine/b-t"], verb="probe")
    assert (probe.data, probe.checkpoint, probe.out) == ("t.csv", "runs/b", "runs/b-t")
    with pytest.raises(ConfigError, match="no recipe 'mine/a-t'"):
        find_recipe("mine/a-t")
    shutil.copytree("mine", "paper")  # as the queue takes it, so do its lines
    assert [str(entry.out) for entry in read_list("paper")] == ["runs/a", "runs/b", "runs/b-t"]
    Path("paper/grid.yaml").unlink()
    assert read_list("paper")[0].config.out == "runs/paper/pretrain/aape"
    Path("mine/grid.yaml").write_text("out: o\nencoders: {a: {about: one, stepz: 3}}\n")
    with pytest.raises(ConfigError, match=r"'stepz' in mine/grid.yaml, a: did you mean 'steps'"):
        parse(PretrainConfig, ["--config", "mine/a", *NEEDED])


@pytest.mark.parametrize(
    ("verb", "name", "words"),
    [
        ("pretrain", "paper/aap", "no recipe 'paper/aap', as a name or a path: the nearest are paper/aape, "),
        ("pretrain", "tinny", "the nearest are tiny, "),
        ("pretrain", "tiny.yaml", r"cannot read the recipe tiny.yaml: No such file; by name, the nearest are tiny, "),
        ("pretrain", "recipes/tiny.yaml", "the nearest are tiny, "),
        (
            "pretrain",
            "paper/aape-esc50",
            "for `aape finetune`, not for `aape pretrain`; the nearest are paper/",
        ),
        ("finetune", "paper/aape", "not for `aape finetune`; the nearest are paper/aape-"),
        ("probe", "paper/aape-us8", "the nearest are paper/aape-us8k, "),
        ("embed", "tiny", "not for `aape embed`; `aape embed` has no recipes"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(tmp_path, monkeypatch, verb, name, words):
    """A slip of the finger, a recipe of another verb, or the path of an earlier version."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        parse(cli.load_verb(verb)[1], ["--config", name], verb=verb)


def test_a_recipe_that_says_no_verb_cannot_be_printed(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="which verb it is for: give it `verb:`, one of pretrain, finetune, probe"):
        cli.load_verb("recipes")[0](parse(cli.load_verb("recipes")[1], [str(tmp_path / "mine.yaml")]))
    (tmp_path / "mine.yaml").write_text("verb: [probe]\n")
    with pytest.raises(ConfigError, match="verb: expected the name of one"):
        find_recipe(str(tmp_path / "mine.yaml"))


def test_an_installed_package_has_its_recipes(tmp_path):
    """From a wheel, in a folder with no checkout near: what most users will have."""
    site = tmp_path / "site"
    shutil.copytree(Path(aape.__file__).parent, site / "aape", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys, pathlib, aape, aape.cli\n"
        "assert pathlib.Path(aape.__file__).is_relative_to(sys.argv[1])\n"
        "sys.exit(aape.cli.main(['recipes', 'paper/aape-esc50']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(site)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "task: esc50" in result.stdout
