"""`aape embed`."""

from __future__ import annotations

from dataclasses import dataclass, field

from aape.commands.options import Device
from aape.errors import require_positive


@dataclass(frozen=True)
class EmbedConfig:
    """`aape embed`: sound files in, one vector per file out.

    Args:
        inputs: sound files, and folders of them.
        model: a name (tiny is part of the package) or a saved folder.
        out: NPZ file to write: `embedding` (n, 2D) and `file` (n,); a run that was killed goes on where it was.
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. The model's own where
            not stated.
        batch: clips per forward pass, at most; a CPU takes 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    out: str
    loop_to: float | None = None
    batch: int = 16
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "batch")


def embed(config: EmbedConfig) -> None:
    """Run the verb."""
    from aape.commands.embed_run import embed_command as run

    run(config)
