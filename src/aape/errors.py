"""The one exception family of the package: a failure that models and commands expect is an `AapeError` of one line."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_MAX_CHARACTERS = 4000
# Beyond these, an option is a slip of the hand, and what it asks for never ends or takes all memory.
MAX_STEPS, MAX_CLIPS, MAX_SEEDS, MAX_WORKERS, MAX_RATE = 10**9, 2**16, 1000, 256, 1000.0
_REMEDIES = {
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "choose a disk that can be written to",
    errno.ENOENT: "put its folder back",
}
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def one_line(text: str) -> str:
    """Make one printable line of any text: a hostile name may hold line breaks, terminal codes, or megabytes."""
    line = " ".join(text.splitlines())
    if len(line) > _MAX_CHARACTERS:
        line = f"{line[: _MAX_CHARACTERS // 2]} ... {line[-_MAX_CHARACTERS // 2 :]}"
    if not line.isprintable():
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    return line


class AapeError(Exception):
    """Base of what models and commands raise on purpose. The command line prints it as one line and exits 2.

    Args:
        message: what is wrong and what to do about it; becomes one printable line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class AudioError(AapeError):
    """A sound file that cannot be used. Names the file and the reason.

    Args:
        name: the file (or shard member) as the user knows it.
        reason: what is wrong with it, and what to do where that is known.
    """

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = str(name)
        self.reason = one_line(reason)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


class AudioWarning(UserWarning):
    """A sound that was read, with something about it that its owner should know. Names the file.

    Args:
        message: becomes one printable line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class PlainWarnings:
    """Warnings as one line each, those of sounds up to `MAX_SOUNDS`: `warnings.formatwarning` of the command line."""

    MAX_SOUNDS = 20

    def __init__(self) -> None:
        self.num_sounds = 0

    def __call__(self, message: Warning | str, category: type[Warning], *where: object) -> str:
        """Return the line of one, or nothing."""
        self.num_sounds += issubclass(category, AudioWarning)
        if not issubclass(category, AudioWarning) or self.num_sounds <= self.MAX_SOUNDS:
            return f"warning: {one_line(str(message))}\n"
        is_first = self.num_sounds == self.MAX_SOUNDS + 1
        return "warning: and others: `aape data check` lists all such files\n" if is_first else ""


class RangeWarning(AudioWarning):
    """A sound that lies outside the range of frequencies that the front end reads."""


class ConfigError(AapeError):
    """A configuration that cannot be used."""

    @classmethod
    def unknown_key(cls, key: str, valid: Iterable[str], where: str = "") -> ConfigError:
        """Build the message for an unknown key: names it and shows the nearest valid one, or those of its section."""
        names = sorted(valid)
        nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
        section = [name for name in names if name.startswith(f"{key.rpartition('.')[0] or key}.")]
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid keys: {', '.join(section or names)}"
        return cls(f"unknown key {key!r}{f' in {where}' if where else ''}: {hint}")


class CheckpointError(AapeError):
    """A saved model or a checkpoint that is missing, damaged or of another shape."""


class DataError(AapeError):
    """A data set that cannot be used: an empty folder, a missing column, too many bad files."""


class TrainingError(AapeError):
    """A run that cannot go on: loss or gradient stay NaN or infinite."""


def why_not_written(path: str | os.PathLike[str], needed: int, error: BaseException) -> str:
    """Say why `needed` bytes (0 if unknown) could not be written, and what to do: make room only where that helps."""
    code = (error.errno if isinstance(error, OSError) else None) or 0
    if written_in_rust := re.search(r"os error (\d+)", str(error)):  # safetensors' writer
        code = int(written_in_rust[1])
    reason = os.strerror(code) if code else one_line(str(error)) or type(error).__name__
    folder = next((parent for parent in Path(path).absolute().parents if parent.exists()), Path("/"))
    free = shutil.disk_usage(folder).free
    if code in _FULL or free < needed:
        size = f"it needs {_bytes(needed)}, and " if needed else ""
        return f"({reason}): {size}{_bytes(free)} are free: make room"
    return f"({reason}): {_REMEDIES.get(code, 'mend that')}"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], needed: int | Callable[[], int] = 0) -> Iterator[None]:
    """Turn the error of a write within into one line: the file, what it needs in bytes, and what is free.

    Raises:
        AapeError: it could not be written.
    """
    try:
        yield
    except OSError as error:
        size = needed if isinstance(needed, int) else needed()
        raise AapeError(f"{path}: could not be written {why_not_written(path, size, error)}") from error


def require(config: object, expected: str, is_valid: Callable[[float], bool], *names: str) -> None:
    """Check fields of a configuration; each of several values, and None is left open.

    Raises:
        ConfigError: names the field, and what it must be.
    """
    for name in names:
        value = getattr(config, name)
        if not all(map(is_valid, value if isinstance(value, tuple) else () if value is None else (value,))):
            raise ConfigError(f"{name} must be {expected}, got {value}")


def require_positive(config: object, *names: str) -> None:
    """Check that fields of a configuration are above 0, as `require`."""
    require(config, "above 0", lambda value: value > 0, *names)


def require_at_most(config: object, **most: float) -> None:
    """Check that fields of a configuration, by name, are no more than what still makes sense, as `require`."""
    for name, limit in most.items():
        require(config, f"{limit:g} at most", lambda value, limit=limit: value <= limit, name)  # type: ignore[misc]
