"""`aape export`: a model as one file that other programs run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aape.errors import AapeError, ConfigError, writing

TOLERANCE = 1e-4  # between the file and PyTorch, largest difference, relative where numbers are above 1


@dataclass(frozen=True)
class ExportConfig:
    """`aape export`: a model as one file that needs only samples, for ONNX Runtime or torch.export.

    Args:
        model: a name (tiny is part of the package) or a saved folder.
        out: file to write, such as model.onnx or model.pt2.
        format: onnx or pt2; auto goes by the name of the file.
    """

    model: str = field(metadata={"positional": True})
    out: str
    format: Literal["auto", "onnx", "pt2"] = "auto"


def export(config: ExportConfig) -> None:
    """Write a model as one file, once it has been found to agree with PyTorch.

    Raises:
        AapeError: no such model or format, a package is missing, or the file would not agree with PyTorch to 1e-4.
    """
    import os
    import tempfile
    from pathlib import Path

    from aape.adapters import export as files
    from aape.inference import load_model
    from aape.runs.files import TEMPORARY, folder_for

    out = Path(config.out)
    kind = out.suffix.lower().removeprefix(".") if config.format == "auto" else config.format
    if kind not in ("onnx", "pt2"):
        raise ConfigError(f"out: {out} ends neither in .onnx nor in .pt2: name it so, or say --format onnx or pt2")
    if kind == "onnx" and out.suffix.lower() == ".pt2":
        raise ConfigError(f"out: {out} ends in .pt2, and --format says onnx")
    if kind == "pt2" and out.suffix != ".pt2":
        raise ConfigError(f"out: {out} must end in .pt2, which is all that torch.export.load takes")
    if out.is_dir():
        raise ConfigError(f"out: {out} is a folder: name the file to write, such as {out / f'model.{kind}'}")
    if kind == "onnx":
        files.require_onnx()
    model = load_model(config.model, "cpu")
    with folder_for(out), tempfile.TemporaryDirectory(TEMPORARY, f".{out.name}.", out.parent) as folder:
        draft = Path(folder) / f"model.{kind}"
        with writing(out, sum(parameter.nbytes for parameter in model.encoder.parameters())):
            files.write(model, draft, kind)
        difference = files.compare(model, files.open_onnx(draft) if kind == "onnx" else files.open_pt2(draft))
        if not difference <= TOLERANCE:
            raise AapeError(f"{out}: not written: it differs from PyTorch by {difference:.1e}, more than {TOLERANCE:g}")
        os.replace(draft, out)
    least, most, rate = files.min_samples(model), files.max_samples(model), model.front_end.sample_rate
    print(
        f"samples (clips, {least} to {most}), up to {most / rate:.2f} s at {rate} Hz -> embedding (clips, "
        f"{model.embed_dim}), frames; largest difference from PyTorch {difference:.1e} -> {out}"
    )
