"""Work cut into chunks, each kept in a folder when it is finished, so that a restart does only what is left.

Processes share it, if torchrun has started several: each takes chunks that are neither finished nor taken, by a lock of
the kernel's that goes with the process. Rank 0 keeps the folder, waits for the others, does what those left that died,
and makes the result. A chunk is known by all that its content depends on.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

from aape.errors import ConfigError, writing
from aape.runs.files import replacing
from aape.runs.lock import SHARED_NAME, acquire, locked, ranks, release

SECONDS_TO_BEGIN = 600.0  # that others wait for rank 0
SECONDS_TO_JOIN = 30.0  # that rank 0, when all is done, waits for those that have not begun
SECONDS_TO_LOOK = 0.2  # between looks at what other processes do
_END = struct.Struct("<QQI")  # bytes of a body and of the notes behind it, CRC-32 of both
Progress: TypeAlias = Callable[[int, int], None]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
_LEAD = 0  # the byte that rank 0 locks; a chunk's follow


class Finished(NamedTuple):
    """A chunk that is read: its body, from the start of the file, and its notes."""

    file: IO[bytes]
    size: int  # of the body, bytes
    notes: Any


class Growing:
    """A chunk that is written: a body of bytes, and notes, any JSON."""

    def __init__(self, path: Path) -> None:
        self.notes: Any = None
        self.size = 0
        self._path = path
        self._file: IO[bytes] = io.BytesIO()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file, and write notes and checksum in the end."""
        with replacing(self._path, lambda: self.size) as self._file:
            yield
            notes, size = json.dumps(self.notes).encode(), self.size
            self.write(notes)
            with writing(self._path, self.size):
                self._file.flush()
                crc = _crc(self._file, self.size)
            self.write(_END.pack(size, len(notes), crc))

    def write(self, content: bytes) -> None:
        """Append to the body."""
        self.size += len(content)
        with writing(self._path, self.size):
            self._file.write(content)

    def cut(self, size: int) -> None:
        """Drop what was written behind so many bytes."""
        if size < self.size:
            with writing(self._path, self.size):
                self._file.seek(size)
                self._file.truncate()
            self.size = size


class Chunks:
    """The chunks of one result.

    Args:
        out: the file that comes of them, or the folder of several; they lie in `OUT.partial` or `OUT/.partial`, and go
            when it is there.

    Raises:
        ConfigError: this process is said to be one of several, in a way that makes no sense.
    """

    def __init__(self, out: Path) -> None:
        self.rank, self.world = ranks()
        self.folder = out / ".partial" if out.is_dir() else out.with_name(f"{out.name}.partial")
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._left: set[int] = set()
        self._mine: set[int] = set()
        self._elsewhere, self._looked = 0, -math.inf
        self._descriptor = -1

    @property
    def is_lead(self) -> bool:
        """Whether this process makes the result."""
        return self.rank == 0

    @contextlib.contextmanager
    def opened(self, settings: Mapping[str, object], keys: Iterable[Sequence[object]]) -> Iterator[None]:
        """Open the folder; rank 0 removes it in the end.

        Args:
            settings: what the content of every chunk depends on, by a word for it; JSON.
            keys: for each chunk, what each of its items depends on; JSON.

        Raises:
            ConfigError: another command is at work there; or settings or keys are not those of rank 0, or it has not
                begun, or has ended before the result was there.
        """
        shared, inputs = json.dumps(settings), hashlib.sha256()
        for key in keys:
            text = json.dumps(key)
            inputs.update(text.encode())
            self._names.append(f"{hashlib.sha256(f'{shared} {text}'.encode()).hexdigest()}.chunk")
            self._sizes.append(len(key))
        self._left = set(range(len(self._names)))
        plan = json.loads(shared) | {"inputs": inputs.hexdigest()}
        with locked(self.folder):
            self._descriptor = self._lead(plan) if self.is_lead else self._follow(plan)
            try:
                yield
                if self.is_lead:
                    self._wait_for_all()
                    # One that has fallen behind must not find chunks that have gone, and do them again.
                    acquire(self._descriptor, 1, waits=True)
                    shutil.rmtree(self.folder, ignore_errors=True)
                elif acquire(self._descriptor, _LEAD, 1, is_shared=True) and self.folder.exists():
                    raise ConfigError("rank 0 has ended before the others: start the command again, it goes on")
            finally:
                os.close(self._descriptor)

    def _lead(self, plan: Mapping[str, object]) -> int:
        """Say what the work is, and then by a lock that it has begun."""
        for path in self.folder.glob(f"{SHARED_NAME}-*"):  # an earlier run
            path.unlink()
        path, content = self.folder / SHARED_NAME, json.dumps(plan).encode()
        with writing(path, len(content)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, content)
        acquire(descriptor, _LEAD, 1, waits=True)  # the others only try it
        return descriptor

    def _follow(self, plan: Mapping[str, object]) -> int:
        """Wait until rank 0 has begun, and do the same work."""
        begun, is_told = time.monotonic(), False
        while True:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.folder / SHARED_NAME, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
                if not acquire(descriptor, _LEAD, 1, is_shared=True):
                    (self.folder / f"{SHARED_NAME}-{self.rank}").touch()
                    break
                os.close(descriptor)
            if time.monotonic() - begun > SECONDS_TO_BEGIN:
                raise ConfigError(
                    f"rank {self.rank}: rank 0 has not begun within {SECONDS_TO_BEGIN / 60:g} minutes, or had ended "
                    f"before: start all with the same --out, on a file system with locks"
                )
            if time.monotonic() - begun > SECONDS_TO_JOIN and not is_told:
                print(f"rank {self.rank} waits for rank 0 to begin", file=sys.stderr, flush=True)
                is_told = True
            time.sleep(SECONDS_TO_LOOK)
        lead = json.loads(os.read(descriptor, os.fstat(descriptor).st_size))
        other = [name for name in plan if lead.get(name) != plan[name]]
        if other:
            os.close(descriptor)
            names = ", ".join(other)
            raise ConfigError(f"rank {self.rank}: {names} not as in rank 0: start all with the same files and options")
        return descriptor

    def _wait_for_all(self) -> None:
        """Give those that have not begun some time to find that all is done."""
        until = time.monotonic() + SECONDS_TO_JOIN
        while len(list(self.folder.glob(f"{SHARED_NAME}-*"))) < self.world - 1 and time.monotonic() < until:
            time.sleep(SECONDS_TO_LOOK)

    def fill(
        self,
        pieces: Sequence[Sequence[ItemT]],
        compute: Callable[[Iterator[Sequence[ItemT]], Progress], Iterable[tuple[int, ResultT]]],
        keep: Callable[[Iterator[tuple[int, ResultT]], Growing], None],
        progress: Progress,
    ) -> None:
        """Do what is left for this process; each chunk is kept as soon as it is finished.

        Args:
            pieces: the items of each chunk.
            compute: gets pieces, which it may take ahead, and what to call with the number of items begun; yields in
                order results, each with the number of its item, counted through all pieces; of each one or more.
            keep: writes a chunk, from results with the number of the item in it.
            progress: called with (done, total) items.

        Raises:
            AapeError: there is no room for a chunk.
        """
        total, before = sum(map(len, pieces)), 0
        for indices in self.rounds():
            taken, firsts = list[int](), [0]  # chunks, and the number of the first item of each and of the next

            def ahead(indices: Iterator[int], taken: list[int], firsts: list[int]) -> Iterator[Sequence[ItemT]]:
                for index in indices:
                    taken.append(index)
                    firsts.append(firsts[-1] + len(pieces[index]))
                    yield pieces[index]

            def shown(begun: int, _: int, before: int = before) -> None:
                progress(min(total, before + begun + self.num_elsewhere()), total)

            def chunk_of(result: tuple[int, ResultT], firsts: list[int] = firsts) -> int:
                return bisect.bisect(firsts, result[0]) - 1

            shown(0, 0)
            results = compute(ahead(indices, taken, firsts), shown)
            for number, group in itertools.groupby(results, chunk_of):
                first = firsts[number]
                with self.write(taken[number]) as chunk:
                    keep(((item - first, result) for item, result in group), chunk)
            before += firsts[-1]

    def rounds(self) -> Iterator[Iterator[int]]:
        """Yield, until none is left for this process, the chunks that are for it to do now, each to be written."""
        while True:
            yield self._take()
            if not self._left or not self.is_lead:
                return
            time.sleep(SECONDS_TO_LOOK)

    def _take(self) -> Iterator[int]:
        """Take chunks one after the other; each process begins elsewhere, so that they seldom meet."""
        count = len(self._names)
        first = count * self.rank // self.world
        for index in sorted(self._left, key=lambda index: (index - first) % count):
            if not acquire(self._descriptor, 1 + index, 1):
                continue
            if not (self.folder / SHARED_NAME).exists():  # rank 0 has made the result, and let go of all chunks
                return
            if not _is_whole(self.folder / self._names[index]):
                yield index
                continue
            release(self._descriptor, 1 + index, 1)
            self._left.discard(index)

    @contextlib.contextmanager
    def write(self, index: int) -> Iterator[Growing]:
        """Write a chunk that was taken; it is finished when the block ends.

        Raises:
            AapeError: there is no room for it.
        """
        chunk = Growing(self.folder / self._names[index])
        with chunk.opened():
            yield chunk
        release(self._descriptor, 1 + index, 1)
        self._left.discard(index)
        self._mine.add(index)

    def num_elsewhere(self) -> int:
        """Count for rank 0 the items of chunks that others have finished, or an earlier run; as of a second ago."""
        if self.is_lead and time.monotonic() - self._looked > (1.0 if self.world > 1 else math.inf):
            self._looked, names = time.monotonic(), set(os.listdir(self.folder))
            indices = (index for index, name in enumerate(self._names) if name in names and index not in self._mine)
            self._elsewhere = sum(self._sizes[index] for index in indices)
        return self._elsewhere

    @contextlib.contextmanager
    def read(self, index: int) -> Iterator[Finished]:
        """Open a finished chunk."""
        with open(self.folder / self._names[index], "rb") as file:
            size, num_notes, _ = _end(file)
            file.seek(size)
            notes = json.loads(file.read(num_notes))
            file.seek(0)
            yield Finished(file, size, notes)


def _is_whole(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            size, num_notes, crc = _end(file)
            is_long_enough = file.tell() == size + num_notes + _END.size
            return is_long_enough and _crc(file, size + num_notes) == crc
    except (OSError, struct.error):
        return False


def _end(file: IO[bytes]) -> tuple[int, int, int]:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END.size))
    size, num_notes, crc = _END.unpack(file.read(_END.size))
    return size, num_notes, crc


def _crc(file: IO[bytes], count: int) -> int:
    """Return the CRC-32 of the first bytes of a file, and stay behind them."""
    file.seek(0)
    crc = 0
    while count > 0 and (block := file.read(min(count, 1 << 20))):
        crc, count = zlib.crc32(block, crc), count - len(block)
    return crc
