"""torch.compile sees one graph and compiles it once."""

import pytest
import torch

from aape.cli import main
from aape.data.demo import AUDIO


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own, of its compiler
def test_a_compiled_run_compiles_once(tmp_path):
    """A recompilation in every step would cost minutes each, and nobody would know why."""
    from torch._dynamo.utils import counters

    (tmp_path / "sound").mkdir()
    for note in sorted(AUDIO.glob("*.opus"))[:12]:
        (tmp_path / "sound" / note.name).symlink_to(note)
    torch._dynamo.reset()
    counters.clear()
    arguments = ["pretrain", "--data", str(tmp_path / "sound"), "--out", str(tmp_path / "run"), "--model", "nano",
                 "--steps", "5", "--clips", "4", "--workers", "0", "--crop-seconds", "1", "--device", "cpu",
                 "--masking.num-views", "2", "--optim.compile"]  # fmt: skip
    assert main(arguments) == 0
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
