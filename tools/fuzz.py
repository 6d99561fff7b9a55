"""Feed mutated sound files to the reader, in a process that is watched from outside.

`python tools/fuzz.py --count 100000 --seed 0 --out fuzz.json` writes a summary and exits 1 when something is
wrong. Failures name the index of the mutant: `mutate(make_seeds(), seed, index)` makes it again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import re
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from aape.data.audio import audio_seconds, read_audio
from aape.data.audio.decoding import audio_format
from aape.errors import AudioError
from mutations import Mutant, make_seeds, mutate

MAX_SECONDS = 5.0  # of processor time for one file
MAX_MEGABYTES = 256.0  # that the whole run may grow by
WATCH_SECONDS = 60.0  # of silence after which the process is taken for hung, on however busy a machine
MAX_FAILURES = 20  # after which a run gives up
UNKNOWN_LENGTHS = (  # first and last of what programs write that cannot know
    (0x7F000000, 0x7F0000FF),
    (0x7FFFF000, 0x800000FF),
    (0xFFFFF000, 0xFFFFFFFF),
    (1 << 62, 1 << 64),
)
SPARE_FRAMES = 8  # less than a chunk's header in samples


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Read `count` mutants of the series `seed`.

    Returns:
        A summary; its `failures` is empty if every mutant was refused in one line or read whole.
    """
    started = time.time()
    summary: dict[str, Any] = {"count": 0, "seed": seed, "failures": []}
    totals: collections.Counter[str] = collections.Counter()
    growth, slowest, first = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        while first < count and len(summary["failures"]) < MAX_FAILURES:
            report.unlink(missing_ok=True)
            last, failure = _watch([str(first), str(count), str(seed), str(report)])
            part = json.loads(report.read_text()) if report.exists() else {}
            totals.update(part.get("totals", {}))
            summary["failures"] += part.get("failures", [])
            growth = max(growth, part.get("megabytes", 0.0))
            slowest = max(slowest, part.get("seconds", 0.0))
            if failure:
                summary["failures"].append({"index": last, "what": failure})
            first = last + 1
            summary["count"] = first
    if growth > MAX_MEGABYTES:
        summary["failures"].append({"index": None, "what": f"memory grew by {growth:.0f} MB"})
    summary |= {
        "outcomes": dict(sorted(totals.items())),
        "memory_growth_mb": round(growth, 1),
        "slowest_file_seconds": round(slowest, 3),
        "wall_seconds": round(time.time() - started, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
    }
    return summary


def _watch(arguments: list[str]) -> tuple[int, str]:
    """Run a child over mutants first..count; returns the last that it began, and how it died, if it did."""
    command = [sys.executable, __file__, "--child", *arguments]
    # libmpg123 says much on stderr.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        last, stream, pending = int(arguments[0]), child.stdout.fileno(), b""
        while select.select([stream], [], [], WATCH_SECONDS)[0]:
            pending += os.read(stream, 1 << 16)
            whole = len(pending) // 8 * 8
            if whole == 0:  # the end
                status = child.wait()
                return last, f"the process died with status {status}" if status else ""
            last, pending = struct.unpack("<q", pending[whole - 8 : whole])[0], pending[whole:]
        child.kill()
        return last, f"no sign of life for {WATCH_SECONDS:g} s"


def _read_all(first: int, count: int, seed: int, report: Path) -> None:
    """Read mutants first..count, writing the number of each to stdout before it is begun."""
    seeds = make_seeds()
    whole = {name: read_audio(content) for name, content in seeds.items()}
    totals: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []
    slowest, memory = 0.0, _megabytes("VmRSS")
    path = report.with_name("mutant.wav")
    for index in range(first, count):
        os.write(1, struct.pack("<q", index))
        mutant = mutate(seeds, seed, index)
        name = mutant.origin.partition(":")[0]
        began = time.process_time()
        try:
            outcome = judge(mutant, seeds[name], len(whole[name]), index, path)
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"
        seconds = time.process_time() - began
        if seconds > MAX_SECONDS:
            outcome = f"failed: {seconds:.1f} s for one file"
        if outcome.startswith("failed"):
            failures.append({"index": index, "what": f"{mutant.origin}: {outcome}"})
        totals[f"{name.partition('-')[0]} {outcome.partition(':')[0]}"] += 1
        slowest = max(slowest, seconds)
        if index % 1000 == 999 or index == count - 1 or failures:
            growth = _megabytes("VmHWM") - memory
            values = {"totals": totals, "failures": failures, "megabytes": growth, "seconds": slowest}
            report.with_suffix(".new").write_text(json.dumps(values))
            report.with_suffix(".new").replace(report)


def judge(mutant: Mutant, original: bytes, num_samples: int, index: int, path: Path) -> str:
    """Read a mutant, by turns as bytes, as a file and in part; returns what came of it, "failed: ..." if it is wrong.

    Args:
        mutant: what to read.
        original: what it was made from.
        num_samples: length of the original at 16 kHz.
        index: of the mutant.
        path: where a file may be written.
    """
    content, seen = mutant.content, []
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if index % 4 == 1:
                path.write_bytes(content)
                wave = read_audio(path)
            else:
                wave = read_audio(content)
            if index % 4 == 2:
                _check_part(wave, read_audio(content, start=0.02, duration=0.1), mutant.origin)
            elif index % 4 == 3 and audio_seconds(content) > len(wave) / 16000 + 0.2:
                return f"failed: {audio_seconds(content)} s stated, {len(wave) / 16000} s read"
    except AudioError as error:
        message = str(error)
        is_clear = message.isprintable() and len(message) < 500 and error.reason
        return "refused" if is_clear else f"failed: the message is {message!r}"
    _check_samples(wave)
    if len(wave) >= num_samples - SPARE_FRAMES:
        return "read"
    if any("bytes behind its end" in str(warning.message) for warning in seen):
        return "shorter, with a warning of what is behind its end"
    reason = why_shorter(mutant.origin, content, original, num_samples)
    return f"shorter, {reason}" if reason else f"failed: {len(wave)} of {num_samples} samples without a word"


def _check_part(whole: np.ndarray, part: np.ndarray, origin: str) -> None:
    _check_samples(part)
    expected = whole[320:][:1600]
    assert len(part) == len(expected)
    if not origin.startswith(("mp3", "opus", "vorbis")):  # whose decoders, over damage, remember what came before
        assert np.abs(part - expected).max() <= 1e-4 * max(1.0, np.abs(whole).max()), "a part is none of the whole"


def _check_samples(wave: np.ndarray) -> None:
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert wave.size > 0
    assert np.isfinite(wave).all(), "NaN or infinite samples"


def why_shorter(origin: str, content: bytes, original: bytes, num_samples: int) -> str | None:
    """Return why a mutant is rightly shorter than its original, worked out without the reader; None if it is not."""
    rate, _, kind = audio_format(content)
    num_frames = len(read_audio(content, sample_rate=rate))
    if rate != 16000 and num_frames >= num_samples - SPARE_FRAMES:
        return "at another rate"
    if origin.startswith("mp3"):
        is_stated = origin.startswith("mp3:") and content[:180] == original[:180]
        return None if is_stated else "of an MP3 whose index is gone or changed"
    if kind.startswith("MP3"):
        return "of an MP3 that was put into another file, whose start is gone"
    content = content.lstrip(b"\0")
    if content[:4] == b"OggS":
        page = content.rfind(b"OggS")
        is_trimmed = content[page + 6 : page + 14] != original[original.rfind(b"OggS") + 6 :][:8]
        is_trimmed |= content[28:58] != original[28:58]  # the first packet: pre-skip, block sizes
        return "trimmed as Ogg streams may be" if is_trimmed else None
    stated = _stated(content)
    if stated is None:
        return None
    start, length, frame = stated
    is_unknown = length <= start or any(first <= length <= last for first, last in UNKNOWN_LENGTHS)
    if is_unknown and len(content) < len(original):
        return "all of a cut file that states no length"
    if frame and num_frames < (len(content) - start if is_unknown else length) // frame:
        return None
    following = content[start + length :].lstrip(b"\0")
    is_end = is_unknown or len(following) < 8 or following[:3] in (b"ID3", b"TAG", b"APE")
    return "all of a shorter file" if is_end or following[:4].decode("latin-1").isprintable() else None


def _stated(content: bytes) -> tuple[int, int, int] | None:
    """Return where samples begin, how many bytes they are, and the bytes of a frame (0: coded), by the header alone."""
    magic = content[:4]
    order = ">" if magic in (b"RIFX", b"FORM", b".snd", b"caff") else "<"
    if magic == b".snd":
        start, length, code, _, channels = struct.unpack_from(">5I", content, 4)
        return start, length, channels * {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(code, 0)
    if magic == b"NIST":
        fields = dict(re.findall(rb"(\w+) -i (\d+)", content[:1024]))
        frame = int(fields.get(b"channel_count", 1)) * int(fields.get(b"sample_n_bytes", 2))
        return int(content[8:16]), int(fields.get(b"sample_count", 0)) * frame, frame
    if magic == b"caff":
        frame, position = struct.unpack_from(">I", content, 36)[0], content.find(b"data")
        return position + 16, struct.unpack_from(">q", content, position + 4)[0] - 4, frame
    if magic == b"FORM":
        position, sound = content.find(b"COMM"), content.find(b"SSND")
        channels, frames, bits = struct.unpack_from(">HIH", content, position + 8)
        length, offset = struct.unpack_from(">II", content, sound + 4)
        frame = channels * ((bits + 7) // 8)
        is_unknown = length <= 8 or any(first <= length <= last for first, last in UNKNOWN_LENGTHS)
        return sound + 16 + offset, frames * frame if is_unknown else length - 8 - offset, frame
    if magic not in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff"):
        return None
    is_long = magic == b"riff"
    form = content.find(b"fmt ") + (24 if is_long else 8)
    tag, channels, bits = struct.unpack_from(f"{order}HH10xH", content, form)
    position = content.find(b"data")
    length = struct.unpack_from("<Q" if is_long else f"{order}I", content, position + (16 if is_long else 4))[0]
    if b"ds64" in content[:20] and length in (0, 0xFFFFFFFF):
        length = struct.unpack_from("<Q", content, 28)[0]
    frame = channels * ((bits + 7) // 8) if tag in (1, 3, 6, 7, 0xFFFE) else 0
    return position + (24 if is_long else 8), length - (24 if is_long else 0), frame


def _megabytes(field: str) -> float:
    """Return the memory of this process now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines[field].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of the summary")
    options = parser.parse_args()
    summary = fuzz(options.count, options.seed)
    text = json.dumps(summary, indent=2) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text, end="")
    return 1 if summary["failures"] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _read_all(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    else:
        sys.exit(main())
