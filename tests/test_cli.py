"""The command line as people use it: in a process of its own, judged by what it prints and returns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, is_dataclass
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from aape import cli
from aape.commands.embed import EmbedConfig
from aape.commands.options import option_table, summary
from aape.commands.pretrain import PretrainConfig
from aape.commands.probe import ProbeConfig
from aape.errors import ConfigError
from aape.models.config import EncoderConfig
from aape.models.stats import front_end_from_stats

NEEDED = ["--data", "sounds", "--out", "run"]


def aape(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "aape", *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )


def assert_one_line_error(result, *words):
    assert result.returncode == 2
    assert result.stderr.startswith("aape: error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def write_noise(path, seed=0, seconds=1.0):
    noise = np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * 16000))
    soundfile.write(path, noise, 16000)


def write_recipe(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# In a process of its own


def test_help_lists_every_verb_with_what_it_does():
    """Without it nobody finds out what the program can do."""
    result = aape("--help")
    assert result.returncode == 0
    for name in cli.VERBS:
        assert f"  {name}" in result.stdout
        assert len(summary(cli.load_verb(name)[1])) > 10
        assert summary(cli.load_verb(name)[1]) in result.stdout


def test_version_is_printed():
    """A bug report needs the version."""
    assert aape("--version").stdout == f"aape {cli.__version__}\n"


def test_unknown_verb_lists_the_valid_ones():
    """A typo in the verb must not end in a traceback."""
    assert_one_line_error(aape("pertrain"), "'pertrain'", "pretrain", "stats")


def test_a_verb_of_two_words_explains_itself(capsys):
    """Whoever types `aape plot` learns what can be drawn."""
    assert cli.main(["plot", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "plot windows" in shown
    assert "pretrain" not in shown
    assert cli.main(["plot", "widnows"]) == 2
    assert "plot windows, plot clip" in capsys.readouterr().err


def test_errors_are_one_line_and_debug_shows_the_traceback(tmp_path):
    """People need the line, developers the traceback."""
    arguments = ["stats", "--data", tmp_path / "missing", "--out", tmp_path / "stats.json"]
    assert_one_line_error(aape(*arguments), "missing")
    assert "Traceback" in aape(*arguments, "--debug").stderr


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    """A wrong path is the user's everyday mistake, not a crash of the program."""
    (tmp_path / "file").write_text("")
    write_noise(tmp_path / "a.wav")
    assert_one_line_error(aape("stats", "--data", tmp_path / "a.wav", "--out", tmp_path / "file" / "stats.json"))


def test_stats_measures_a_folder_and_lists_what_it_left_out(tmp_path):
    """Pre-training standardises with this file; a broken recording must be seen, not silently counted."""
    for seed in range(3):
        write_noise(tmp_path / f"{seed}.wav", seed)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "new" / "stats.json"
    result = aape("stats", "--data", tmp_path, "--out", out, "--max-bad-fraction", "0.25", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "broken.wav" in result.stderr
    content = json.loads(out.read_text())
    assert [bad["file"] for bad in content["bad"]] == ["broken.wav"]
    assert content["num_clips"] == 3
    assert content["num_frames"] == 3 * 101
    assert content["front_end"]["n_mels"] == 128
    assert content["std"] > 0


def test_stats_stops_when_too_much_is_bad(tmp_path):
    """Statistics of the few files that happened to be readable would spoil a whole training run."""
    write_noise(tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    result = aape("stats", "--data", tmp_path, "--out", tmp_path / "stats.json")
    assert result.returncode == 2
    assert "1 of 2 clips" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "stats.json").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hop_length", "160", "front_end.hop_length: expected int, got '160'"),
        ("win_length", 2000, "front_end: no such frames"),
        ("hop", 160, "unknown key 'hop' in front_end"),
        ("mean", "low", "front_end.mean: expected float, got 'low'"),
        ("std", 0, "front_end: no such statistics"),
    ],
)
def test_statistics_that_make_no_front_end_are_refused(tmp_path, field, value, words):
    """A mistake in a file edited by hand must stop a run at its start, and the message must name the field."""
    content = {"mean": -6.0, "std": 4.0, "front_end": {"hop_length": 160}}
    content[field] = content["front_end"][field] = value
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {words}")):
        front_end_from_stats(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes there")
def test_statistics_that_are_no_file_are_refused(tmp_path):
    """A named pipe would hang the run for ever."""
    os.mkfifo(tmp_path / "stats.json")
    with pytest.raises(ConfigError, match="not a file"):
        front_end_from_stats(tmp_path / "stats.json")
    with pytest.raises(ConfigError, match="cannot read the statistics"):
        front_end_from_stats(tmp_path / "none.json")


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 9 EiB"), RuntimeError("x\nDefaultCPUAllocator: can't allocate memory: 9"),
              RuntimeError("CUDA out of memory. Tried")],
)  # fmt: skip
def test_out_of_memory_is_one_line_and_says_what_to_do(tmp_path, monkeypatch, capsys, error):
    """A batch too large is the commonest failure of all; a traceback hides the remedy."""
    monkeypatch.setattr("aape.inference.load_model", Mock(side_effect=error))
    assert cli.main(["embed", "a.wav", "--model", "tiny", "--out", str(tmp_path / "v.npz")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "out of memory: ask for less at once: fewer clips" in lines[0]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_is_one_line(tmp_path):
    """Stopping a run on purpose is no error: one line, and the exit status that shells expect."""
    started = tmp_path / "started"
    code = (
        "import pathlib, sys, time; from aape import cli; from aape.commands import demo\n"
        "def endless(config: demo.DemoConfig) -> None:\n"
        f"    pathlib.Path({str(started)!r}).touch(); time.sleep(60)\n"
        "demo.demo = endless; sys.exit(cli.main(['demo']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for what it starts with &
    )  # fmt: skip
    while not started.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "aape: stopped by SIGINT: the same command begins anew\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["stats", "--data", "sound", "--out", "new/stats.txt"],
        ["embed", "sound", "--model", "tiny", "--out", "new/v.txt"],
        ["classify", "sound", "--model", "tiny", "--out", "new/c.txt"],
        ["data", "check", "--data", "sound", "--out", "new/report.csv"],
        ["export", "tiny", "--out", "new/model.bin"],
        ["export", "tiny", "--out", "new/model.pt2", "--format", "onnx"],
        ["plot", "windows", "--out", "new/figure.pdf"],
        ["plot", "run", "runs/a", "--out", "new/figure.pdf"],
        ["table", "--out", "new/tables.csv"],
    ],
    ids=" ".join,
)
def test_an_output_is_what_its_name_says_or_refused(tmp_path, monkeypatch, capsys, arguments):
    """A file of another kind than its ending is found out only when another program cannot open it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound").mkdir()
    write_noise(tmp_path / "sound/a.wav")
    assert cli.main(arguments) == 2
    assert arguments[arguments.index("--out") + 1] in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# Options


def test_defaults_are_those_of_the_configuration():
    """What the help promises is what runs."""
    assert cli.parse(PretrainConfig, NEEDED) == PretrainConfig(data="sounds", out="run")


def test_options_reach_their_fields_with_dashes_or_underscores():
    """People type both; both have to mean the same."""
    arguments = [*NEEDED, "--save-every", "7", "--keep_checkpoints=3", "--optim.learning-rate", "1e-3", "--resume"]
    arguments += ["--encoder.kernel_size", "31"]
    config = cli.parse(PretrainConfig, [*arguments, "--no-encoder.adaptive", "--no-optim.compile"])
    assert (config.save_every, config.keep_checkpoints, config.resume) == (7, 3, True)
    assert config.optim.learning_rate == 1e-3
    assert config.encoder == {"kernel_size": 31, "adaptive": False}
    assert config.optim.compile is False
    assert config.loss == PretrainConfig.loss


def test_inputs_may_stand_anywhere():
    """`aape embed --model tiny a.wav b.wav --out x.npz` is how people type it."""
    config = cli.parse(EmbedConfig, ["a.wav", "--model", "tiny", "b.wav", "--out", "x.npz", "--", "--odd-name.wav"])
    assert config.inputs == ["a.wav", "b.wav", "--odd-name.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "sounds"], ["missing", "--out"]),
        ([*NEEDED, "--lerning-rate", "1"], ["--lerning-rate", "--optim.learning-rate"]),
        ([*NEEDED, "--encoder.kernal_size", "31"], ["--encoder.kernal_size", "--encoder.kernel-size"]),
        ([*NEEDED, "--optim", "1"], ["valid keys: --optim.accumulate, "]),
        ([*NEEDED, "--steps", "many"], ["--steps", "a whole number", "'many'"]),
        ([*NEEDED, "--steps", "1.5"], ["--steps", "a whole number"]),
        ([*NEEDED, "--steps", "0"], ["steps", "above 0"]),
        ([*NEEDED, "--seed", "-1"], ["--seed", "'-1'"]),
        ([*NEEDED, "--optim.learning-rate", "nan"], ["--optim.learning-rate", "'nan'"]),
        ([*NEEDED, "--steps"], ["--steps", "needs a value"]),
        ([*NEEDED, "--steps", "--resume"], ["--steps", "needs a value"]),
        ([*NEEDED, "--resume=maybe"], ["--resume", "true or false"]),
        ([*NEEDED, "--model", "huge"], ["--model", "nano", "'huge'"]),
        ([*NEEDED, "--optim.betas", "0.8,0.9"], ["unknown key", "--optim.betas"]),
        ([*NEEDED, "--optim.lr", "1"], ["valid keys: --optim.accumulate, ", ", --optim.learning-rate, "]),
        ([*NEEDED, "--loss.temperature", "1"], ["valid keys: --loss.contrastive-weight, "]),
        ([*NEEDED, "--encoder.stride", "x"], ["--encoder.stride", "a whole number"]),
        ([*NEEDED, "stray"], ["stray"]),
        ([*NEEDED, "-s", "3"], ["-s"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_mistakes_are_named(arguments, words):
    """An option that is ignored or misread costs a day of training."""
    with pytest.raises(ConfigError) as caught:
        cli.parse(PretrainConfig, arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_function(verb):
    """A verb that the help offers and that is not there is a promise broken."""
    function, config_class = cli.load_verb(verb)
    assert callable(function)
    assert is_dataclass(config_class)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_option_is_explained(verb, capsys):
    """An option without a word of help is one that nobody can use."""
    assert cli.main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in option_table(cli.load_verb(verb)[1]).values():
        assert option.help, option.key
        assert option.positional or "--" + option.key.replace("_", "-") in shown


# Recipes


def test_a_recipe_sets_options_and_the_command_line_overrides_it(tmp_path):
    """A run is data: the recipe is what one keeps, an override what one tries."""
    recipe = write_recipe(
        tmp_path,
        "data: sounds\nout: run\nsteps: 10\nresume: true\nstats: null\n"
        "encoder: {kernel_size: 31}\noptim:\n  learning_rate: 1e-3\nloss.contrastive_weight: 1\n",
    )
    config = cli.parse(PretrainConfig, ["--steps", "20", "--config", recipe, "--encoder.stride", "2"])
    assert (config.data, config.steps, config.resume, config.stats) == ("sounds", 20, True, None)
    assert config.encoder == {"kernel_size": 31, "stride": 2}
    assert config.optim.learning_rate == 1e-3
    assert isinstance(config.loss.contrastive_weight, float)


def test_a_recipe_inherits_from_its_base_section_by_section(tmp_path):
    """Variants of three lines over one base recipe: only what differs is written down."""
    (tmp_path / "variants").mkdir()
    write_recipe(tmp_path, "steps: 10\noptim: {learning_rate: 1e-3, warmup_ratio: 1}\n", "base.yaml")
    recipe = write_recipe(tmp_path / "variants", "base: ../base.yaml\noptim: {warmup_ratio: 0.5}\n")
    config = cli.parse(PretrainConfig, ["--config", recipe, *NEEDED])
    assert (config.steps, config.optim.learning_rate, config.optim.warmup_ratio) == (10, 1e-3, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step: 3", ["'step'", "'steps'"]),
        ("optim: {lerning_rate: 1}", ["'optim.lerning_rate'", "'optim.learning_rate'"]),
        ("encoder: {kernal_size: 3}", ["'encoder.kernal_size'", "'encoder.kernel_size'"]),
        ("steps: many", ["steps", "a whole number", "'many'"]),
        ("steps: 1.5", ["steps", "a whole number"]),
        ("resume: 1", ["resume", "true or false"]),
        ("data: [a, b]", ["data", "text"]),
        ("optim: 3", ["optim", "section"]),
        ("model: huge", ["model", "nano"]),
        ("steps: 1\nsteps: 2", ["steps", "twice"]),
        ("optim.warmup_ratio: 1\noptim: {warmup_ratio: 2}", ["optim.warmup_ratio", "twice"]),
        ("steps: !!python/object/apply:os.system [ls]", ["tag", "line 1"]),
        ("steps: !!int 3", ["tag"]),
        ("- steps", ["mapping"]),
        ("steps: [1", ["line"]),
        ("base: missing.yaml", ["missing.yaml", "recipe.yaml"]),
        ("base: recipe.yaml", ["based on itself"]),
        ("base: [a, b]", ["base"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_in_a_recipe_are_named_with_the_file(tmp_path, text, words):
    """A misspelt key that is silently ignored is a paper with the wrong numbers."""
    recipe = write_recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        cli.parse(PretrainConfig, ["--config", recipe, *NEEDED])
    for word in [*words, "recipe.yaml"]:
        assert word in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    """The wrong folder is the commonest mistake of all."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        cli.parse(PretrainConfig, ["--config", str(tmp_path / "nowhere.yaml"), *NEEDED])


def test_words_that_yaml_1_1_misreads_stay_words(tmp_path):
    """A column called `no` or a split dated 2020-01-01 is text, not false and not a date."""
    recipe = write_recipe(tmp_path, "data: d\nout: o\ncheckpoint: tiny\nlabel: no\nsplit: 2020-01-01\n")
    config = cli.parse(ProbeConfig, ["--config", recipe])
    assert (config.label, config.split) == ("no", "2020-01-01")


def test_a_new_verb_needs_only_a_dataclass_and_a_line(monkeypatch, capsys):
    """The recipe for a verb in CONTRIBUTING.md has to work."""

    @dataclass(frozen=True)
    class GreetConfig:
        """`aape greet`: says hello.

        Args:
            names: whom to greet.
            encoder: fields of an encoder.
        """

        names: tuple[str, ...] = ("you",)
        encoder: dict = field(default_factory=dict, metadata={"fields_of": EncoderConfig})

    def greet(config: GreetConfig) -> None:
        print("hello", *config.names, config.encoder)

    greet.__annotations__["config"] = GreetConfig
    module = type(sys)("aape.commands.greet")
    module.greet = greet
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.VERBS, "greet", "greet:greet")
    assert cli.main(["greet", "--names", "Ann,Bob", "--encoder.depth", "3"]) == 0
    assert capsys.readouterr().out == "hello Ann Bob {'depth': 3}\n"
