"""Installation: a machine with a C compiler gets the compiled operator, one without gets a sentence and the rest."""

import ctypes
import importlib.util
import shutil
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
def test_without_a_compiler_the_reason_is_told_and_no_old_library_stays(
    compile_library, tmp_path, monkeypatch, compiler, reason
):
    """A library of an earlier version must not be loaded by a later one."""
    library = tmp_path / "_sblu.so"
    library.write_bytes(b"old")
    monkeypatch.setenv("CC", compiler)
    assert reason in compile_library(SOURCE, library)
    assert not library.exists()
