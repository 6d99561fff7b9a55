"""`aape plot windows`, `clip`, `aliasing` and `run`."""

from __future__ import annotations

from dataclasses import dataclass, field

from aape.commands.options import Device
from aape.errors import ConfigError, require_positive


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
        require_positive(self, "tones", "steps")


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
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "seconds")
        if self.seconds > 10.24:
            raise ConfigError(f"seconds: at most 10.24, which is what is encoded in one pass, got {self.seconds:g}")


@dataclass(frozen=True)
class PlotAliasingConfig:
    """`aape plot aliasing`: what the tokens of each stem tell of folded modulation, and how far small shifts move them.

    Args:
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        data: recordings to shift: a folder, CSV or tar shard; by default those of the package.
        models: names (tiny is part of the package) or saved folders to measure too, as in tiny,runs/mine; [] for none.
        seeds: repetitions, each with weights and sounds of its own.
        clips: sounds of each modulation rate to train a decoder with; half as many test it.
        sounds: recordings, and modulated tones, to shift in each repetition.
    """

    out: str = "aliasing"
    data: str | None = None
    models: tuple[str, ...] = ("tiny",)
    seeds: int = 3
    clips: int = 24
    sounds: int = 12

    def __post_init__(self) -> None:
        require_positive(self, "seeds", "clips")
        if self.sounds < 2:
            raise ConfigError(f"sounds: at least 2, to have a distance between them, got {self.sounds}")


@dataclass(frozen=True)
class PlotRunConfig:
    """`aape plot run`: losses, variances, learning rate and throughput of pre-training runs.

    Args:
        runs: run folders, of finished runs or of such as are under way.
        out: figure to write, as .png and .svg.
    """

    runs: list[str] = field(metadata={"positional": True})
    out: str = "run"


def plot_windows(config: PlotWindowsConfig) -> None:
    """Run the verb."""
    from aape.commands.plot_run import plot_windows as run

    run(config)


def plot_clip(config: PlotClipConfig) -> None:
    """Run the verb."""
    from aape.commands.plot_run import plot_clip as run

    run(config)


def plot_aliasing(config: PlotAliasingConfig) -> None:
    """Run the verb."""
    from aape.commands.plot_run import plot_aliasing as run

    run(config)


def plot_run(config: PlotRunConfig) -> None:
    """Run the verb."""
    from aape.commands.plot_run import plot_run as run

    run(config)
