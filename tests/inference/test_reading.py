"""Workers that read ahead of the model: the same bytes, and nothing left behind however it ends."""

import os
import signal
import subprocess
import sys
import time
import warnings
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape.data.clips import Clip
from aape.errors import AapeError, AudioWarning, ConfigError
from aape.inference import AudioModel, reading
from aape.inference.reading import CLIPS_AHEAD, read_clips
from aape.inference.segments import End, cutting
from aape.models.heads import ClassificationHead
from notes import FRONT_END, NOTES, nano

RATE = 16000
CUT = cutting(FRONT_END, 16)
POSIX = pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")


@pytest.fixture
def workers(monkeypatch):
    """Return the list of the processes that were started."""
    started = []
    popen = subprocess.Popen

    def start(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(reading.subprocess, "Popen", start)
    return started


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Return clips of many lengths, among them a long one, parts, and files that cannot be read or break off."""
    folder = tmp_path_factory.mktemp("clips")
    noise = 0.1 * np.random.default_rng(0).standard_normal(45 * RATE)
    soundfile.write(folder / "long.flac", noise, RATE)
    content = (folder / "long.flac").read_bytes()
    (folder / "broken.flac").write_bytes(content[: int(0.9 * len(content))])
    (folder / "text.wav").write_text("no sound")
    files = [*NOTES[:9], folder / "text.wav", folder / "long.flac", *NOTES[9:16], folder / "broken.flac", NOTES[16]]
    parts = [Clip(str(folder / "long.flac"), f"long.flac#t={i},{i + 1.5}", start=i, end=i + 1.5) for i in range(5)]
    return [*(Clip(str(file), file.name) for file in [*files, folder / "gone.wav"]), *parts]


@pytest.mark.parametrize("options", [{}, {"window": 2.0, "hop": 0.5}], ids=["clips", "windows"])
def test_bytes_do_not_depend_on_workers(clips, options):
    """Whoever tries more workers to save time must get the same file, bad clips in their places."""
    model = AudioModel(nano(), FRONT_END, loop_to=3.0)

    def embed(num_workers):
        chunks, calls = [clips[:7], clips[7:]], []
        items = model.embed_chunks(
            chunks, num_workers=num_workers, progress=lambda *call: calls.append(call), batch_size=4, **options
        )
        rows = [
            (item.row, str(item.error)) if isinstance(item, End) else (*item[:3], item.vector.tobytes())
            for item in items
        ]
        return rows, calls[-1]

    expected = embed(0)
    assert [row for row, *rest in expected[0] if len(rest) == 1] == [9, 18, 20]
    for num_workers in (1, 2, 3):
        assert embed(num_workers) == expected


def test_files_and_classes_take_workers(clips):
    """The option means the same wherever data sets are read."""
    model = AudioModel(nano(), FRONT_END, head=ClassificationHead(64, 3))
    files = [clip.path for clip in clips[:8]]
    np.testing.assert_array_equal(model.embed_files(files)[0], model.embed_files(files, num_workers=2)[0])
    assert model.classify_clips(clips) == model.classify_clips(clips, num_workers=2)


@pytest.mark.parametrize("number", [-1, 257, 1.5, True, "2"])
def test_no_such_number(number):
    """A thousand processes by a slip of the hand would take the machine down."""
    with pytest.raises(ConfigError, match="workers must be 0 to 256"):
        next(read_clips([], CUT, num_workers=number))


def test_clips_are_pulled_as_they_are_needed(workers):
    """A list of clips may be endless; and of idle workers none is started."""
    pulled = []

    def endless():
        for row in count():
            pulled.append(row)
            yield Clip(str(NOTES[row % 20]), "note")

    items = read_clips(endless(), CUT, num_workers=2)
    rows = [item.row for item in islice(items, 100) if isinstance(item, End)]
    assert rows == list(range(50))
    assert len(pulled) <= 50 + 2 * CLIPS_AHEAD
    items.close()
    list(read_clips([Clip(str(NOTES[0]), "note")], CUT, num_workers=8))
    assert len(workers) == 3
    assert all(worker.returncode is not None for worker in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_recording_is_not_held(tmp_path, workers):
    """Ten hours in one worker must wait there, block by block, until the model has come so far."""
    with soundfile.SoundFile(tmp_path / "long.flac", "w", RATE, 1) as file:
        for _ in range(30):
            file.write(0.1 * np.random.default_rng(0).standard_normal(60 * RATE))  # 115 MB in all
    items = read_clips([Clip(str(tmp_path / "long.flac"), "long")], CUT, num_workers=1)
    next(items)
    time.sleep(1.0)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{workers[0].pid}/status").read_text().splitlines())
    items.close()
    assert int(status["VmHWM"].split()[0]) < 100_000, "kB"


def test_warnings_reach_the_user_once(tmp_path):
    """A file of ultrasound must not pass for silence because a worker has read it."""
    soundfile.write(tmp_path / "bat.wav", np.sin(2 * np.pi * 40_000 / 192_000 * np.arange(192_000)), 192_000)
    clips = [Clip(str(tmp_path / "bat.wav"), "bat.wav"), Clip(str(NOTES[0]), "note")]

    def warned(num_workers):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(read_clips(clips, CUT, num_workers=num_workers))
        return [(warning.category, str(warning.message)) for warning in caught]

    assert len(warned(0)) == 1
    assert issubclass(warned(0)[0][0], AudioWarning)
    assert warned(0) == warned(2)
    with pytest.raises(AudioWarning):  # warnings are errors here
        list(read_clips(clips, CUT, num_workers=2))


def test_any_other_error_is_raised_here():
    """What is no `AudioError` ends the program as it does without workers, and never in silence."""
    for number in (0, 2):
        with pytest.raises(TypeError):
            list(read_clips([Clip(str(NOTES[0]), "note", start="a", end=1.0)], CUT, num_workers=number))


@POSIX
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_was_killed(clips, workers, victim):
    """Out of memory, the kernel kills one: that is one line, not a hang, and not a short result."""
    model = AudioModel(nano(), FRONT_END)
    chunks = ([clip] for clip in clips * 100)
    items = model.embed_chunks(chunks, num_workers=2)
    next(items)
    os.kill(workers[victim].pid, signal.SIGKILL)
    with pytest.raises(AapeError, match=r"a worker that reads has died \(Killed.*\), at .*: start again, with fewer"):
        list(items)
    assert all(worker.returncode is not None for worker in workers)


PARENT = """
import os, signal, sys, threading, time
from aape.data.clips import Clip
from aape.inference import reading
from aape.inference.segments import cutting
from aape.models.config import FrontEndConfig

started = []
popen = reading.subprocess.Popen
reading.subprocess.Popen = lambda *args, **options: started.append(popen(*args, **options)) or started[-1]
clips = [Clip(name, name) for name in sys.argv[1:]] * 1000
for number, item in enumerate(reading.read_clips(clips, cutting(FrontEndConfig(), 16), num_workers=2)):
    if number == 20:
        print(*(worker.pid for worker in started), flush=True)
        time.sleep(100)
"""


@POSIX
def test_workers_end_with_their_parent():
    """Whoever kills a program with SIGKILL must not have to look for its workers."""
    command = [sys.executable, "-c", PARENT, *map(str, NOTES[:4])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    for _ in range(100):
        alive = [pid for pid in pids if os.path.exists(f"/proc/{pid}") and _is_running(pid)]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


WITHOUT_SHARED_MEMORY = """
import sys
from aape.cli import main  # noqa: F401
import aape
model = aape.load_model("tiny", "cpu")

def refuse(*args, **options):
    raise OSError(38, "Function not implemented")

import _multiprocessing, _posixshmem
_multiprocessing.SemLock = _posixshmem.shm_open = refuse
assert len(model.embed_files(sys.argv[1:], num_workers=2)[0]) == 4
print("done")
"""


@POSIX
def test_no_shared_memory_is_needed():
    """Containers often have none, and there loaders of other libraries end with a bus error."""
    command = [sys.executable, "-c", WITHOUT_SHARED_MEMORY, *map(str, NOTES[:4])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout == "done\n", result.stderr


def test_a_worker_is_small():
    """Sixteen of them must not take four gigabytes, nor as many seconds to start as the model needs."""
    code = "import sys; import aape.inference.reading; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert result.stdout == "False\n"


def test_a_program_without_a_main_guard(tmp_path):
    """What works without workers must work with them: a worker does not run the user's program again."""
    program = f"""
import aape
print("once", flush=True)
print(len(aape.load_model("tiny", "cpu").embed_files({str(NOTES[0])!r}, num_workers=1)[0]))
"""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "program.py").write_text(program)
    for name in ("pickle", "soundfile"):  # a stranger's folder runs no code
        (tmp_path / f"{name}.py").write_text("raise SystemExit('foreign code')")
    command = [sys.executable, "program/program.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout == "once\n1\n", result.stderr
