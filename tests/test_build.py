"""Installation: a machine with a C compiler gets the compiled operator, one without gets a sentence and the rest."""

import ctypes
import importlib.util
import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/aape/ops/sblu.c"


@pytest.fixture
def compile_library():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compile_library


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_a_compiler_makes_a_library_that_loads(compile_library, tmp_path):
    """It needs nothing of torch: a C file, a compiler, ctypes."""
    assert compile_library(SOURCE, tmp_path / "_sblu.so") is None
    assert ctypes.CDLL(str(tmp_path / "_sblu.so"))


@pytest.mark.parametrize(("compiler", "reason"), [("/nowhere/cc", "No such file"), ("false", "false failed")])
def test_without_a_compiler_there_is_a_reason_and_no_old_library(
    compile_library, tmp_path, monkeypatch, compiler, reason
):
    """A library of an earlier version must not be loaded by a later one."""
    library = tmp_path / "_sblu.so"
    library.write_bytes(b"old")
    monkeypatch.setenv("CC", compiler)
    assert reason in compile_library(SOURCE, library)
    assert not library.exists()


def test_the_wheel_holds_recipes_models_and_recordings(tmp_path, monkeypatch):
    """`--config tiny` and `load_model("tiny")` must not need a checkout."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder
    monkeypatch.setenv("CC", "false")  # compiling has a test of its own
    for name in ("src", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "_sblu.so")
        shutil.copytree(path, tmp_path / name, ignore=ignore) if path.is_dir() else shutil.copy(path, tmp_path)
    (wheel,) = builder(str(tmp_path)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src/aape"
    for path in [
        *package.glob("recipes/**/*.yaml"),
        *package.glob("models/pretrained/*/*"),
        *package.glob("data/demo/*"),
        *package.glob("**/*.js"),
        *package.glob("**/*.css"),
    ]:
        if path.is_file() and path.suffix != ".pyc":
            assert f"aape/{path.relative_to(package).as_posix()}" in names
