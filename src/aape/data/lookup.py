"""Listed files under the names that they have here: other machines write accents, capitals and slashes differently."""

from __future__ import annotations

import difflib
import itertools
import os
import stat
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath

_MAX_SEARCHED = 100_000  # names that a hint looks through


class Names:
    """Names that are there, found by other ways to write them."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)
        self._alike: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list))
        for name in self.names:
            for key, alike in zip(_keys(name), self._alike, strict=True):
                alike[key].append(name)

    def find(self, name: str) -> str | None:
        """Return the name itself, or the only one that differs in composed accents, or else in capitals, too."""
        if name in self.names:
            return name
        matches = [alike[key] for key, alike in zip(_keys(name), self._alike, strict=True) if key in alike]
        return matches[0][0] if matches and len(matches[0]) == 1 else None


class Lookup:
    """Finds what a list beside `base` names."""

    def __init__(self, base: str | os.PathLike[str]) -> None:
        self.base = os.fspath(base)
        self._folders: dict[str, Names] = {}

    def find(self, listed: str) -> tuple[str, os.stat_result] | None:
        """Return path and status of a listed file; None if there is none, or several could be meant."""
        location = os.path.join(self.base, listed)
        if status := _file_status(location):
            return location, status
        for text in _spellings(listed):
            location = self._walk(text) or ""
            if location and (status := _file_status(location)):
                return location, status
        return None

    def foreign_root(self, listed: Sequence[str]) -> list[str] | None:
        """Return the folders of another machine that all listed paths begin with: without them all are there.

        None if there are no such, or several ways to choose them.
        """
        parts = [split_path(path) for path in listed]
        pairs = zip(min(parts)[:-1], max(parts)[:-1], strict=False)  # what these share, all share
        depth = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        depth = min(depth, *(len(names) - 1 for names in parts))
        is_address = any("://" in _local(path) for path in listed)
        first = 0 if all(PureWindowsPath(_local(path)).anchor for path in listed) else 1
        counts = range(first, 0 if is_address else depth + 1)
        drops = [n for n in counts if all(self.find("/".join(names[n:])) for names in parts)]
        return parts[0][: drops[0]] if len(drops) == 1 else None

    def hint(self, listed: str) -> str:
        """Say what may be meant by a file that is not there, as the end of a sentence."""
        if "://" in listed:
            return "; it is an address: download it first"
        if os.path.isfile(listed):
            return "; it is there seen from the current folder, but paths are relative to the CSV"
        name = split_path(listed)[-1] if split_path(listed) else listed
        alike: list[str] = []
        for path in itertools.islice(self._below(), _MAX_SEARCHED):
            base = os.path.basename(path)
            if _keys(base)[1] == _keys(name)[1] or os.path.splitext(base)[0] == name:
                alike.append(path)
        if not alike:
            siblings = self._names(os.path.dirname(os.path.join(self.base, listed))).names
            alike = difflib.get_close_matches(name, siblings, n=1, cutoff=0.8)
        return f"; is it {' or '.join(map(repr, sorted(alike)[:2]))}?" if alike else ""

    def _below(self) -> Iterator[str]:
        for root, folders, files in os.walk(self.base):
            folders.sort()
            yield from (os.path.relpath(os.path.join(root, name), self.base) for name in files)

    def _walk(self, text: str) -> str | None:
        """Go down to a path part by part, each under the name that it has."""
        path = PurePosixPath(text)
        current = "/" if path.is_absolute() else self.base
        for part in path.parts[path.is_absolute() :]:
            name = part if part == ".." else self._names(current).find(part)
            if name is None:
                return None
            current = os.path.join(current, name)
        return current

    def _names(self, folder: str) -> Names:
        if folder not in self._folders:
            try:
                self._folders[folder] = Names(os.listdir(folder))
            except OSError:
                self._folders[folder] = Names(())
        return self._folders[folder]


def _keys(name: str) -> tuple[str, str]:
    composed = unicodedata.normalize("NFC", name)
    return composed, unicodedata.normalize("NFC", composed.lower())


def _spellings(listed: str) -> Iterator[str]:
    """Yield a path as it is, that of a file's URI, and with slashes for Windows' backslashes."""
    yield _local(listed)
    if "\\" in listed:
        yield listed.replace("\\", "/")


def _local(listed: str) -> str:
    """Return the path of a file's URI, without its host; anything else as it is."""
    if not listed.startswith("file://"):
        return listed
    return "/" + urllib.parse.unquote(listed.removeprefix("file://").partition("/")[2])


def split_path(listed: str) -> list[str]:
    """Split a path of any machine, without its drive or root."""
    path = PureWindowsPath(_local(listed))
    return [part for part in path.parts if part not in (path.anchor, ".")]


def _file_status(path: str) -> os.stat_result | None:
    """Return the status of a regular file, also behind a link; None for anything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None
