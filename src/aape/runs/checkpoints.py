"""Checkpoints appear complete or not at all: written to a staging folder, flushed, listed with checksums, then renamed.

A checkpoint is a folder `checkpoint-STEP`: tensors in `state.safetensors` and `rank-N.safetensors`, the rest in
`state.json`, and in `manifest.json` size and SHA-256 of every other file, and of the list itself. Nothing is unpickled.
A folder that does not agree with its manifest to the last bit is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aape.errors import CheckpointError, one_line, why_not_written
from aape.runs.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_NAME = "manifest.json"
STATE_NAME, TENSORS_NAME = "state.json", "state.safetensors"
OLD_NAMES = ("optimizer.pt", "trainer_state.json", "checkpoint.pt")  # files of versions that unpickled
STAGING_NAME = ".saving"  # where a checkpoint is written; what lies there belongs to a killed process
_NAME = re.compile(r"checkpoint-(\d+)")


def publish(staging: Path, final: Path) -> None:
    """Flush a finished folder to the disk with its manifest, and move it to `final`, replacing what is there."""
    entries = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            entries[path.relative_to(staging).as_posix()] = [os.fstat(file.fileno()).st_size, _digest(file)]
            os.fsync(file.fileno())
    write_atomically(staging / MANIFEST_NAME, _manifest(entries))
    _flush_folder(staging)
    if final.exists():
        shutil.rmtree(final)
    os.replace(staging, final)
    _flush_folder(final.parent)


def find_fault(folder: Path) -> str | None:
    """Compare a checkpoint with its manifest. Returns what is wrong with it, or None."""
    name = MANIFEST_NAME
    try:
        content = (folder / name).read_bytes()
        entries = json.loads(content)["files"]
        if _manifest(entries) != content:
            return f"{name} is damaged"
        for name, (size, digest) in entries.items():
            with open(folder / name, "rb") as file:
                if os.fstat(file.fileno()).st_size != size or _digest(file) != digest:
                    return f"{name} is damaged"
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    except (ValueError, KeyError, TypeError):
        return f"{name} is damaged"
    return None


def newest_intact(out: str | os.PathLike[str]) -> tuple[Path | None, dict[str, str]]:
    """Return the newest intact checkpoint, or None; and the newer ones that are damaged, with what is wrong."""
    damaged: dict[str, str] = {}
    for folder in reversed(list_checkpoints(out)):
        fault = find_fault(folder)
        if fault is None:
            return folder, damaged
        damaged[folder.name] = fault
    return None, damaged


def find_checkpoint(out: str | os.PathLike[str], *, is_main: bool = True) -> Path | None:
    """Find the checkpoint of a run to go on from; the main process says which, and removes what a kill left behind."""
    checkpoint, damaged = newest_intact(out)
    if is_main:
        for path in (Path(out) / STAGING_NAME, *Path(out).glob(".checkpoint-*.old")):
            shutil.rmtree(path, ignore_errors=True)
        for name, fault in damaged.items():
            print(f"{name} is passed over: {fault}", file=sys.stderr)
        print(f"resuming from {checkpoint}" if checkpoint else f"{out} has no intact checkpoint: starting anew")
    return checkpoint


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device; those that share memory may not be among them."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def read_checkpoint(folder: Path, rank: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor] | None]:
    """Read an intact checkpoint: the state, the tensors, and those of one rank, None if there were fewer ranks.

    Raises:
        CheckpointError: it is damaged, or another version wrote it.
    """
    from safetensors.torch import load_file

    refuse_old(folder, is_checkpoint=True)
    of_rank = folder / f"rank-{rank}.safetensors"
    with checkpoint_errors(folder):
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        return state, load_file(folder / TENSORS_NAME), load_file(of_rank) if of_rank.exists() else None


def refuse_old(folder: Path, *, is_checkpoint: bool = False) -> None:
    """Raise CheckpointError for a folder of a version that unpickled, or for a checkpoint without its state."""
    reasons = [name for name in OLD_NAMES if (folder / name).exists()]
    if is_checkpoint and not (folder / STATE_NAME).exists():
        reasons.append(f"no {STATE_NAME}")
    if reasons:
        raise CheckpointError(
            f"{folder}: written by another version of aape ({reasons[0]}), and cannot be continued: begin again in "
            "another --out; its saved model can be used as --init"
        )


@contextlib.contextmanager
def checkpoint_errors(checkpoint: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a checkpoint's content into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = one_line(str(error))[:200]
        raise CheckpointError(
            f"{checkpoint}: damaged, or of another model ({reason}): begin again in another --out"
        ) from error


def list_checkpoints(out: str | os.PathLike[str]) -> list[Path]:
    """List the checkpoint folders of a run, oldest first, intact or not."""
    return sorted((path for path in Path(out).glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=step_of)


def has_progress(out: str | os.PathLike[str]) -> bool:
    """Return whether a run that is resumed need not begin anew: a checkpoint, of any of its jobs, or a finished job."""
    folder = Path(out)
    return any(
        True for name in ("checkpoint-*", "jobs/*/checkpoint-*", "jobs/*/history.json") for _ in folder.glob(name)
    )


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def prune(out: str | os.PathLike[str], *, keep_last: int, keep_every: int = 0) -> None:
    """Remove checkpoints, but for the newest `keep_last` and those of every `keep_every` steps (0 for none)."""
    for folder in list_checkpoints(out)[:-keep_last]:
        if not (keep_every and step_of(folder) % keep_every == 0):
            # Out of the way first: a process killed here must not leave half a checkpoint under its name
            doomed = folder.with_name(f".{folder.name}.old")
            os.replace(folder, doomed)
            shutil.rmtree(doomed)


def save_failed(out: str | os.PathLike[str], step: int, needed: int, error: BaseException) -> CheckpointError:
    """Describe a checkpoint of `needed` bytes that could not be written, and what to do."""
    last, _ = newest_intact(out)
    kept = f"{last.name} is intact" if last else "there is no earlier one"
    reason = why_not_written(Path(out) / f"checkpoint-{step}", needed, error)
    return CheckpointError(f"{out}: checkpoint-{step} could not be written {reason} and go on with --resume; {kept}")


def _manifest(entries: dict[str, Any]) -> bytes:
    listed = json.dumps(entries, sort_keys=True)
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return (json.dumps({"files": entries, "sha256": digest}, sort_keys=True, indent=1) + "\n").encode()


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut; Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
