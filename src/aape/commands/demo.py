"""`aape demo`."""

from __future__ import annotations

from dataclasses import dataclass

from aape.commands.options import Device
from aape.errors import require_positive


@dataclass(frozen=True)
class DemoConfig:
    """`aape demo`: the whole way on the recordings that come with the package.

    Args:
        out: folder that everything is left in.
        seed: of the weights, the crops and the masks.
        steps: of the short pre-training run.
        probe_steps: of each probe.
        checkpoint: the encoder to show, a name or a saved folder.
        device: where to run.
    """

    out: str = "runs/demo"
    seed: int = 0
    steps: int = 200
    probe_steps: int = 1000
    checkpoint: str = "tiny"
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "steps", "probe_steps")


def demo(config: DemoConfig) -> None:
    """Run the verb."""
    from aape.commands.demo_run import demo as run

    run(config)
