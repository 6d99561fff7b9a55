"""The options of `aape export` and of what `aape plot` draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aape.config.commands import _require_positive
from aape.errors import ConfigError


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


@dataclass(frozen=True)
class PlotWindowsConfig:
    """`aape plot windows`: spectra and gradients of three windows, and how often descent finds a tone with each.

    Args:
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        seed: of the tones and the starts.
        tones: random tones, each with a random start.
        steps: of gradient descent.
    """

    out: str = "windows"
    seed: int = 0
    tones: int = 200
    steps: int = 300

    def __post_init__(self) -> None:
        _require_positive(self, "tones", "steps")


@dataclass(frozen=True)
class PlotClipConfig:
    """`aape plot clip`: a sound's spectrogram, and the frequencies and decays that a stem chose for it over time.

    Args:
        file: sound file.
        model: a name (tiny is part of the package) or a saved folder.
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        start: where to begin, in seconds.
        seconds: how much to show, at most 10.24.
        device: where to run.
    """

    file: str = field(metadata={"positional": True})
    model: str = "tiny"
    out: str = "clip"
    start: float = 0.0
    seconds: float = 10.24
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        _require_positive(self, "seconds")
        if self.seconds > 10.24:
            raise ConfigError(f"seconds: at most 10.24, which is what is encoded in one pass, got {self.seconds:g}")


@dataclass(frozen=True)
class PlotAliasingConfig:
    """`aape plot aliasing`: what each stem's tokens tell of modulations that a patch folds, and of shifts within one.

    Args:
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        model: whose stem and embeddings are shown beside random ones, a name or a saved folder.
        seeds: random weights and draws of the test sounds; what is drawn is their mean.
        carriers: carrier frequencies, of which a quarter is held out for testing.
        phases: random phases of each modulation on each carrier.
    """

    out: str = "aliasing"
    model: str = "tiny"
    seeds: int = 3
    carriers: int = 16
    phases: int = 4

    def __post_init__(self) -> None:
        _require_positive(self, "seeds", "phases")
        if self.carriers < 4:
            raise ConfigError(f"carriers: at least 4, so that there are some to test on, got {self.carriers}")


@dataclass(frozen=True)
class PlotRunConfig:
    """`aape plot run`: losses, variances, learning rate and throughput of pre-training runs.

    Args:
        runs: run folders, of finished runs or of such as are under way.
        out: figure to write, as .png and .svg.
    """

    runs: list[str] = field(metadata={"positional": True})
    out: str = "run"
