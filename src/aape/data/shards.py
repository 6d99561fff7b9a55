"""Where the sound files in a tar shard are: nothing is extracted, and no number in it is trusted."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aape.data.audio.decoding import AUDIO_EXTENSIONS
from aape.errors import DataError

_MAX_EXTENSION_BYTES = 1 << 13  # of a long name or of other attributes; tarfile's patterns are quadratic in it
_LARGE_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


def has_extension(name: str, extensions: tuple[str, ...] = AUDIO_EXTENSIONS) -> bool:
    """Tell whether a file is a sound file by its name, and not a hidden one."""
    return name.lower().endswith(extensions) and not name.startswith(".")


class _Entry(tarfile.TarInfo):
    """A member's header, whose numbers are looked at before tarfile believes them."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        """Read a header of 512 bytes."""
        # A negative size makes older tarfiles read one header for ever, a large one makes them ask for as much memory.
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in (*_LARGE_HEADERS, b"X") and entry.size > _MAX_EXTENSION_BYTES):
            raise DataError(f"a header that promises {entry.size} bytes")
        return entry


def index_tar(path: Path, selects: Callable[[str], bool]) -> dict[str, tuple[int, int]]:
    """Return offset and size in bytes of a shard's selected files, by member name, in the shard's order.

    Args:
        path: the shard.
        selects: whether to list a member, by its base name.

    Raises:
        DataError: no plain tar, damaged, or such a member that is no plain file, lies elsewhere or is there twice.
    """
    extents: dict[str, tuple[int, int]] = {}
    if path.exists() and not path.is_file():  # a named pipe would never end
        raise DataError(f"{path}: not a file")
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:", tarinfo=_Entry) as shard:
            for member in shard:
                if member.size < 0 or member.offset_data < 0:
                    raise DataError(f"member {member.name!r} has {member.size} bytes")
                if not selects(posixpath.basename(member.name)) or member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"member {member.name!r} is not a plain file")
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise DataError(f"member {member.name!r} points outside the shard")
                name = posixpath.normpath(member.name)
                if name in extents:
                    raise DataError(f"two members are called {name!r}")
                if member.offset_data + member.size > length:
                    raise DataError(f"truncated inside member {name!r}")
                extents[name] = (member.offset_data, member.size)
            # tarfile ends without a word at a damaged header; an intact archive ends with zeros.
            with open(path, "rb") as file:
                file.seek(shard.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise DataError(f"damaged or truncated after member {next(reversed(extents), None)!r}")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except tarfile.TarError as error:
        raise DataError(f"{path}: not an uncompressed tar, or a truncated one ({error})".splitlines()[0]) from error
    except (MemoryError, OverflowError, RecursionError, ValueError) as error:  # forged numbers, headers without end
        raise DataError(f"{path}: damaged, or not a tar ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return extents
