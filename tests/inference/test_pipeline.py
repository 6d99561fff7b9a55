"""Segments in, results out: in order, in batches that do not depend on threads, holding little, ending cleanly."""

import threading
import time
from itertools import count, islice

import numpy as np
import pytest
import torch

from aape.data.clips import Clip
from aape.inference import AudioModel
from aape.inference.pipeline import MAX_OVERTAKEN, MAX_WAITING_FRAMES, encode
from aape.inference.segments import End, Segment
from notes import FRONT_END, NOTES, nano

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def segment(number, length):
    return Segment(number, 0.0, 1.0, 1, length, np.full(4, number, np.float32), 0, length)


def stream(lengths, *, closing=()):
    """Yield a segment and its end for each length; after the ends of `closing` begins another chunk."""
    for number, length in enumerate(lengths):
        yield segment(number, length)
        yield End(number, closes=number in closing)


def run(items, compute=lambda batch: [part.samples[0] for part in batch], size=4):
    return encode(items, compute, batch_size=lambda length: size, device=CPU, is_repeatable=True)


def test_results_come_in_order(num_threads):
    """Row 7 of a file of vectors must be that of file 7, though later ones were in a batch before it."""
    lengths = np.random.default_rng(0).choice([16, 32, 48], 300)

    def compute(batch):
        time.sleep(0.001 * (batch[0].padded == 16))
        return [part.samples[0] for part in batch]

    results = list(run(stream(lengths), compute))
    assert [item.row if isinstance(item, End) else item[0].row for item in results] == [i // 2 for i in range(600)]
    assert all(isinstance(item, End) or item[0].row == item[1] for item in results)
    assert all(isinstance(item, End) or not item[0].samples.size for item in results), "samples are held no longer"


def test_batches_do_not_depend_on_threads(num_threads):
    """What shares a batch may differ in the last bit: it must be the same on every machine, and within a chunk."""
    lengths = np.random.default_rng(1).choice([16, 32, 48], 200)
    batches = []

    def compute(batch):
        batches.append([part.row for part in batch])
        return [0] * len(batch)

    list(run(stream(lengths, closing={99, 199}), compute))
    expected = []
    for first in (0, 100):
        for length in (16, 32, 48):
            rows = [first + row for row in np.flatnonzero(lengths[first : first + 100] == length).tolist()]
            expected += [rows[i : i + 4] for i in range(0, len(rows), 4)]
    assert sorted(batches) == sorted(expected)


def test_a_rare_length_holds_little_back(num_threads):
    """One long clip among a million short ones must not hold all later vectors in memory, nor all their samples."""
    lengths = (1008 if number == 5 else 32 if number % 2 else 16 for number in count())
    read = most = 0

    def watched():
        nonlocal read
        for item in stream(lengths):
            read += 1
            yield item

    for computed, _ in enumerate(islice(run(watched()), 4000), start=1):
        most = max(most, read - computed)
    assert most < MAX_OVERTAKEN + 2 * 4 * 2 * (2 * num_threads + 3)


def test_many_lengths_hold_few_samples():
    """Files of a thousand different lengths fill no batch: those that wait must not be all of them."""
    lengths = [16 * (1 + number % 64) for number in range(2000)]
    waiting = most = 0

    def watched():
        nonlocal waiting, most
        for item in stream(lengths):
            waiting += 0 if isinstance(item, End) else item.padded
            most = max(most, waiting)
            yield item

    def compute(batch):
        nonlocal waiting
        waiting -= sum(part.padded for part in batch)
        return [0] * len(batch)

    for _ in encode(watched(), compute, batch_size=lambda length: 64, device=torch.device("meta")):
        pass
    assert waiting == 0
    assert most < MAX_WAITING_FRAMES + 4 * 64 * 1024  # and those handed on


@pytest.mark.parametrize("where", ["stream", "compute"])
def test_an_error_ends_it(where, num_threads):
    """What goes wrong in a thread must be raised where the user is, and not wait for what is left."""
    computed = []

    def failing():
        yield from stream([16] * 40)
        if where == "stream":
            raise RuntimeError("broken")
        yield from stream([16] * 100_000)

    def compute(batch):
        computed.append(len(batch))
        if where == "compute" and len(computed) == 5:
            raise RuntimeError("broken")
        return [0] * len(batch)

    with pytest.raises(RuntimeError, match="broken"):
        list(run(failing(), compute))
    assert len(computed) < 50


def test_it_may_be_left_early(num_threads):
    """`break` in a loop over vectors: files are closed, and no work is done that nobody asked for."""
    closed, computed = threading.Event(), []

    def endless():
        try:
            yield from stream([16] * 100_000)
        finally:
            closed.set()

    def compute(batch):
        computed.append(len(batch))
        return [0] * len(batch)

    results = run(endless(), compute)
    next(results)
    results.close()
    assert closed.is_set()
    before = len(computed)
    time.sleep(0.05)
    assert len(computed) <= before + num_threads


def test_threads_are_the_users(num_threads):
    """Whoever embeds between two steps of a training must not find that training in one thread afterwards."""
    seen = []

    def compute(batch):
        seen.append(torch.get_num_threads())
        return [0] * len(batch)

    list(run(stream([16] * 40), compute))
    assert set(seen) == {1}
    assert torch.get_num_threads() == num_threads
    in_new_thread = []
    thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert in_new_thread == [num_threads]


def test_bytes_do_not_depend_on_threads():
    """Two machines share an archive: the vectors of a file have the same bytes on both."""
    model = AudioModel(nano(), FRONT_END)
    clips = [Clip(str(note), note.name) for note in NOTES[:30]]
    before, vectors = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            vectors.append(model.embed_clips(clips)[0].tobytes())
    finally:
        torch.set_num_threads(before)
    assert vectors[0] == vectors[1] == vectors[2]


def test_two_threads_of_the_user():
    """A server embeds for two people at once: each gets what it asked for."""
    model = AudioModel(nano(), FRONT_END).double()
    parts = [[str(note) for note in NOTES[:20]], [str(note) for note in NOTES[20:40]]]
    results = {}
    threads = [
        threading.Thread(target=lambda index=index: results.update({index: model.embed(parts[index])}))
        for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        np.testing.assert_allclose(results[index], model.embed(parts[index]), atol=1e-10, rtol=0)
