"""Files that are there whole or not at all, and what tells one state of a file from another."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aape.errors import ConfigError, DataError, writing

TEMPORARY = ".aape-partial"  # how the name of a file ends that is not whole yet; it begins with a dot


def make_folder(folder: Path, option: str = "out") -> list[Path]:
    """Make a folder; returns what had to be made, the folder first and then those around it. `option` is what named it.

    Raises:
        ConfigError: none can be made there.
    """
    absolute = folder.absolute()
    made = [path for path in (absolute, *absolute.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: {folder} is no folder, and none can be made ({error.strerror})") from error
    return made


def require_ending(out: Path, *endings: str, option: str = "out") -> None:
    """Refuse a file to write whose name ends otherwise, in any case of letters, or that is a folder.

    `option` is what named it.

    Raises:
        ConfigError: that, or what writes .parquet is not installed.
    """
    if out.suffix.lower() not in endings or out.is_dir():
        is_folder = " is a folder" if out.is_dir() else ""
        names = f"{', '.join(endings[:-1])} or {endings[-1]}".removeprefix(" or ")
        raise ConfigError(f"{option}: {out}{is_folder}: name a file that ends in {names}")
    if out.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{option}: {out}: writing Parquet needs pyarrow: pip install 'aape[parquet]'")


@contextlib.contextmanager
def folder_for(out: Path, option: str = "out") -> Iterator[None]:
    """Make the folder that a result goes to before the work and not after it; on an error what was made goes again.

    Raises:
        ConfigError: none can be made there, or nothing written into it.
    """
    made = make_folder(out.parent, option)
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{option}: {out} cannot be written: let this user write into {out.parent}")
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # something is in it by now
                folder.rmdir()
        raise


def refuse_overwriting(key: str, outputs: Iterable[Path], inputs: Iterable[str], model: Path) -> None:
    """Refuse outputs that are in other use too, by any name: a ConfigError that begins with `key`."""
    read = {os.path.realpath(path) for path in [*inputs, *map(os.fspath, model.iterdir())]}
    for path in outputs:
        if os.path.realpath(path) in read:
            raise ConfigError(
                f"{key}: {path} is an input, another output or part of the model: it would be overwritten"
            )


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left half-written in a folder."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities, which JSON does not have, become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A file's name may be no Unicode; what replaces its lone surrogates is JSON's own escape for them.
    write_atomically(path, f"{text}\n".encode(errors="backslashreplace"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under another name beside it, flush it to the disk, and only then give it its name."""
    with replacing(path, len(content)) as file, writing(path, len(content)):
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path, needed: int | Callable[[], int] = 0, folder: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file that grows under another name, and gets its own when all is on the disk; after an error it is gone.

    Args:
        path: its name in the end.
        needed: bytes that it takes, about, for the message where there is no room.
        folder: where it grows, on the same disk; by default beside `path`.

    Raises:
        AapeError: it could not be written; what is written within is for the caller to guard with `writing`.
    """
    with writing(path, needed):
        prefix = f".{path.name[:40]}."  # a name may be as long as a file system takes
        descriptor, temporary = tempfile.mkstemp(dir=folder or path.parent, prefix=prefix, suffix=TEMPORARY)
    file = os.fdopen(descriptor, "w+b")
    try:
        yield file
        with writing(path, needed):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            # mkstemp makes files for their owner only; results get what the user's umask gives every other file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the rest finds no room either
            file.close()
        Path(temporary).unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, strings, finite numbers, booleans and None only, for YAML and JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def npz(**arrays: NDArray[Any]) -> bytes:
    """Pack arrays as `numpy.savez` does; equal arrays give equal bytes."""
    # Not `savez` itself, which has a parameter called `file` and would refuse an array of that name.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            add_array(archive, name, array.dtype, array.shape, [array])
    return content.getvalue()


def add_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
) -> None:
    """Add an array to an NPZ, block by block along its first axis."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            member.write(np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data)


def read_npz(path: Path) -> dict[str, NDArray[Any]] | None:
    """Read the arrays of a file without unpickling anything; None if there is none, or it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:  # numpy leaves a bad file open
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def file_state(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what tells one state of a file from another, its size and time of change; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


class Records:
    """A file `*.jsonl` of one JSON object for each step noted; it need not exist."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, step: int, **values: Any) -> None:
        """Write one line; NaN and infinities, which JSON does not have, become null."""
        line = json.dumps(plain({"step": step, **values}), allow_nan=False) + "\n"
        with writing(self.path, len(line)), open(self.path, "a", encoding="utf-8") as file:
            file.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole lines, as a kill may have cut the last; DataError if one is no JSON object."""
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (RecursionError, ValueError):
                record = None
            if not isinstance(record, dict):
                raise DataError(f"{self.path}, line {number}: not a JSON object")
            records.append(record)
        return records

    def cut_after(self, step: int) -> None:
        """Drop what was written after `step`."""
        if self.path.exists():
            lines = [json.dumps(record) + "\n" for record in self.read() if record["step"] <= step]
            write_atomically(self.path, "".join(lines).encode())
