"""The pages of docs/ run as they stand: every snippet of Python, in order, and every command."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aape.analysis import windows
from aape.cli import VERBS, load_verb, main, parse
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.saved import save_model
from notes import FRONT_END, NOTES, save_nano

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = (
    *("python.md", "command-line.md", "huggingface.md", "sentence-transformers.md", "adapters.md", "figures.md"),
    *("mteb.md", "drop-in.md", "explorer.md"),
)
ALL_PAGES = sorted(path.name for path in DOCS.glob("*.md"))
MORE_PAGES = (
    "../experiments/aliasing/README.md",
    "../experiments/pooling/README.md",
    "../experiments/small_data/README.md",
    "../experiments/stems/README.md",
    "../src/aape/recipes/README.md",
)
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
EVERY_PAGE = [*ALL_PAGES, *MORE_PAGES, *(f"../{name}" for name in OUTSIDE)]
SOURCE = ROOT / "src" / "aape"
METRICS = SOURCE / "models" / "pretrained" / "tiny" / "metrics.jsonl"


def snippets(page):
    """Return language and text of each fenced block."""
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of."""
    rng = np.random.default_rng(0)
    (tmp_path / "recordings").mkdir()
    for name, seconds in (
        ("sound.wav", 1.5),
        ("long.wav", 12.0),
        ("recordings/a.flac", 1.0),
        ("recordings/b.ogg", 0.7),
    ):
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000)
    torch.manual_seed(0)
    options = {"head": ClassificationHead(64, 3), "labels": ["bell", "drum", "flute"]}
    save_nano(tmp_path / "runs" / "bells" / "model", **options)
    (tmp_path / "runs" / "drums").mkdir()
    (tmp_path / "thresholds.csv").write_text("label,threshold\nbell,0.2\ndrum,0.35\n")
    for run in ("bells", "drums"):
        shutil.copy(METRICS, tmp_path / "runs" / run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def commands(request, page, desk, monkeypatch):
    """What the first words of commands call, when it is not `aape`; and what takes minutes is made shorter."""
    recover = windows.recover_tones
    monkeypatch.setattr(windows, "recover_tones", lambda _, __, seed, progress: recover(9, 3, seed, progress=progress))
    if page == "command-line.md":
        launch = [sys.executable, "-m", "torch.distributed.run"]
        return {"torchrun": lambda arguments: subprocess.run([*launch, *arguments], check=False).returncode}
    if page == "mteb.md":
        monkeypatch.setattr(pytest.importorskip("mteb.abstasks.abstask"), "load_dataset", notes_of_the_hub)
    if page != "adapters.md":
        return {}
    pytest.importorskip("onnxruntime")
    pytest.importorskip("xares.audio_encoder_checker")
    request.getfixturevalue("timm")
    validate = request.getfixturevalue("hear_validate")
    encoder = AudioEncoder(encoder_config("nano", stem="patch"))  # exports quickly; tests/adapters has the other stem
    save_model(desk / "runs" / "bells" / "model", encoder, FRONT_END)

    def run_validator(arguments):
        monkeypatch.setattr(sys, "argv", ["hear-validator", *arguments])
        with pytest.warns(UserWarning, match="less than or equal to 50ms"):
            validate.main()
        return 0

    return {"hear-validator": run_validator}


def notes_of_the_hub(**where):
    """Stand for a data set of the Hub: notes, with the columns of ESC-50 that a task needs."""
    import datasets

    clips = [{"bytes": note.read_bytes(), "path": note.name} for note in NOTES[::6]]
    targets = [note.name.partition("-")[0] for note in NOTES[::6]]
    rows = datasets.Dataset.from_dict({"audio": clips, "target": targets})
    return datasets.DatasetDict({"train": rows.cast_column("audio", datasets.Audio())})


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of timm, and of torch's exporters
@pytest.mark.filterwarnings("ignore:At least one mel filter")  # of transformers, where torchaudio is missing
@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page, desk, commands):
    """What people paste must work as it stands."""
    scope: dict[str, object] = {}
    assert snippets(page)
    for language, text in snippets(page):
        if language == "python":
            exec(text, scope)
        else:
            for line in text.splitlines():
                verb, *arguments = shlex.split(line, comments=True)
                assert verb in {"aape", *commands}
                assert commands.get(verb, main)(arguments) == 0, line


@pytest.mark.parametrize("page", [*ALL_PAGES, "../README.md", *MORE_PAGES])
def test_every_command_parses(page, tmp_path, monkeypatch):
    """An option that was renamed, or never was, in a page that takes days to run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "recipe.yaml").write_text("data: sounds\n")
    for text in (text.replace("\\\n", " ") for language, text in snippets(page) if language == "sh"):
        for line in re.findall(r"^(?:.*-m )?aape (.+)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            verb = next(name for name in (" ".join(words[:2]), words[0]) if name in VERBS)
            arguments = words[len(verb.split()) :]
            if arguments[:1] == ["..."]:  # what the commands above it say
                arguments[:1] = ["--data=sounds"] if "--out" in arguments else ["--data=sounds", "--out=run"]
            parse(load_verb(verb)[1], arguments, verb=verb)


@pytest.mark.parametrize("name", ["stem", "tone"])
def test_drawings_are_what_their_scripts_make(name):
    """A drawing that was edited by hand, or shows what the operators no longer do."""
    drawn = importlib.import_module(f"draw_{name}").draw()
    assert (DOCS / f"{name}.svg").read_text(encoding="utf-8") == drawn
    assert f"]({name}.svg)" in (DOCS / "method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_lead_somewhere(page):
    """No dead link, no missing heading."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", (DOCS / page).read_text(encoding="utf-8")):
        path = (DOCS / page).parent / target if target else DOCS / page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        names = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        assert not heading or heading in names, heading


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_files_of_the_repository_exist(page):
    """A page that sends its reader to a file that was moved."""
    for path in re.findall(r"\b(?:src|tests|tools)/[\w./-]*\w", (DOCS / page).read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_contributing_names_what_is_there():
    """The map of the code has to follow the code."""
    text, _, _ = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Set up")
    paths = re.findall(r"`(\w+/[\w./]*)`", text)
    assert paths
    for path in paths:
        assert (SOURCE / path).exists() or (ROOT / path).exists(), path
