"""One thread, no display and no network for every test; stubs for what timm and HEAR import in vain."""

import enum
import importlib.machinery
import os
import sys
import types

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, which are compared with this one

import torch

# The tests run in parallel processes, and one thread gives the same sums on every machine.
torch.set_num_threads(1)


class _Any:
    """Stands for every other name of torchvision; only loading images would call it."""


class _Stub(types.ModuleType):
    """A module in which every attribute exists."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return enum.Enum(name, "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS") if name == "InterpolationMode" else _Any


def _stand_in(monkeypatch, name, module):
    """Replace a module that is not installed."""
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # others ask whether it is installed
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def timm(monkeypatch):
    """Import timm with a stub of torchvision, which is not installed: its CPU build is not on every index."""
    names = ["", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder",
             ".models", ".models.feature_extraction", ".utils"]  # fmt: skip
    for name in names:
        stub = _Stub("torchvision" + name)
        stub.__path__ = []
        stub.__version__ = "0.0"
        _stand_in(monkeypatch, stub.__name__, stub)
        parent, _, child = stub.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, stub)
    pytest.importorskip("timm.models")
    importlib.import_module("timm.optim")
    return sys.modules["timm"]


@pytest.fixture
def hear_validate(monkeypatch):
    """Import hearvalidator.validate; it imports tensorflow for models that we have not."""
    tensorflow = types.ModuleType("tensorflow")
    tensorflow.Module = type("Module", (), {})
    _stand_in(monkeypatch, "tensorflow", tensorflow)
    pytest.importorskip("hearvalidator")
    return importlib.import_module("hearvalidator.validate")


@pytest.fixture
def in_process(monkeypatch):
    """Run the queue's commands here once called: a fresh interpreter for each would take most of a test's time."""
    from aape import cli
    from aape.commands import table

    commands = []

    def run(entry):
        command = entry.command()
        assert command[:3] == [sys.executable, "-m", "aape"]
        commands.append(command[3:])
        return cli.main(command[3:])

    def start():
        monkeypatch.setattr(table, "execute", run)
        return commands

    return start
