"""`aape export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ExportConfig:
    """`aape export`: a model as one file that needs only samples, for ONNX Runtime or torch.export.

    Args:
        model: a name (tiny is part of the package) or a saved folder.
        out: file to write, model.onnx or model.pt2, say.
        format: onnx or pt2; by default what the name of the file says.
    """

    model: str = field(metadata={"positional": True})
    out: str
    format: Literal["auto", "onnx", "pt2"] = "auto"


def export(config: ExportConfig) -> None:
    """Run the verb."""
    from aape.adapters.export import export as run

    run(config)
