"""Where a process computes."""

import pytest
import torch

from aape.runs.devices import resolve_device


@pytest.mark.parametrize(("count", "index"), [(8, 3), (2, 1), (1, 0)])
def test_each_of_several_processes_has_its_gpu(monkeypatch, count, index):
    """All on the first would share its memory, and leave the others idle; a launcher may show each its own only."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", index)
    assert resolve_device("cpu") == torch.device("cpu")
