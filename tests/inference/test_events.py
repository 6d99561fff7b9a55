"""What sounds when: events are the runs of windows that score high enough, and thresholds come from a file."""

import itertools
import tracemalloc

import numpy as np
import pytest

from aape.errors import ConfigError, DataError
from aape.inference import AudioModel, Event, Prediction, events, label_track
from aape.inference.labels import Summary, read_thresholds
from aape.models.heads import ClassificationHead
from notes import FRONT_END, NOTES, nano

LABELS = ["bell", "drum", "flute", "Ωmega"]


def cut(scores, window, hop, threshold):
    """Return the windows of scores (W, classes) as `classify` does; lengths in hundredths of a second."""
    summary = Summary(LABELS, len(LABELS), threshold)
    for number, row in enumerate(scores):
        summary.add(1, number * hop / 100, (number * hop + window) / 100, row)
    return summary.result().windows


def by_hand(scores, window, hop, threshold, min_duration, min_gap):
    """Join, two by two, whatever overlaps, touches or is too near, until nothing is left to join."""
    result = []
    for column, label in enumerate(LABELS):
        runs = [
            (number * hop, number * hop + window, row[column])
            for number, row in enumerate(scores)
            if row[column] >= threshold.get(label, 0)
        ]
        while True:
            near = [
                (a, b)
                for a, b in itertools.combinations(runs, 2)
                if max(a[0], b[0]) <= min(a[1], b[1]) or max(a[0], b[0]) - min(a[1], b[1]) < min_gap
            ]
            if not near:
                break
            first, second = near[0]
            runs.remove(first)
            runs.remove(second)
            runs.append((min(first[0], second[0]), max(first[1], second[1]), max(first[2], second[2])))
        result += [(start, end, label, score) for start, end, score in runs if end - start >= min_duration]
    return sorted(result, key=lambda event: (event[0], event[2]))


@pytest.mark.parametrize("seed", range(40))
def test_events_are_what_a_plain_loop_gives(seed):
    """An event a window too long, or in two, is a wrong annotation that nobody sees in a table of thousands."""
    rng = np.random.default_rng(seed)
    hop = int(rng.integers(1, 60))
    window = int(rng.integers(hop, 3 * hop + 1))
    scores = rng.random((int(rng.integers(1, 40)), len(LABELS))).round(2)
    threshold = dict(zip(LABELS, rng.random(len(LABELS)).round(2), strict=True)) | {"drum": 0.9}
    min_duration, min_gap = (int(n) for n in rng.integers(0, 4 * hop, 2) * rng.integers(0, 2, 2))
    windows = cut(scores, window, hop, threshold)
    expected = by_hand(scores, window, hop, threshold, min_duration, min_gap)
    result = events(windows, min_duration=min_duration / 100, min_gap=min_gap / 100)
    assert [(round(100 * e.start), round(100 * e.end), e.label, e.score) for e in result] == expected
    assert events(windows[::-1], min_duration=min_duration / 100, min_gap=min_gap / 100) == result


def test_lengths_that_are_met_exactly():
    """0.3 - 0.2 is less than 0.1 to a computer, and not to the person who asked for a gap of 0.1."""
    windows = [Prediction(0.1, 0.2, ["bell"], [0.6]), Prediction(0.3, 0.4, ["bell"], [0.9])]
    apart = [Event(0.1, 0.2, "bell", 0.6), Event(0.3, 0.4, "bell", 0.9)]
    assert events(windows, min_gap=0.1) == events(windows, min_duration=0.1) == apart
    assert events(windows, min_gap=0.11) == [Event(0.1, 0.4, "bell", 0.9)]
    assert events(windows, min_gap=0.11, min_duration=0.3) == [Event(0.1, 0.4, "bell", 0.9)]  # dropped after joining
    assert events(windows, min_duration=0.11) == events([]) == []


@pytest.mark.parametrize("value", [-0.1, float("nan"), "1", None])
@pytest.mark.parametrize("name", ["min_duration", "min_gap"])
def test_lengths_that_mean_nothing(name, value):
    """A negative gap would quietly cut events in two."""
    with pytest.raises(ConfigError, match=f"{name} must be 0 s or more, got {value!r}"):
        events([], **{name: value})


def test_labels_stay_on_their_line():
    """A line break in a label is a label track that Audacity refuses, or a label that is not there."""
    strange = ["a\tb", "two\nlines", "\r\n", "\u2028x", "plain words", "Ω"]
    text = label_track(Event(index, index + 0.5, label, 0.9) for index, label in enumerate(strange))
    rows = [line.split("\t") for line in text.splitlines()]
    assert [row[2] for row in rows] == ["a b", "two lines", "", "x", "plain words", "Ω"]
    assert rows[0][:2] == ["0.000000", "0.500000"]


def test_events_of_a_recording():
    """From sound to events: what `classify` leaves in its windows is all that events need, and no more."""
    head = ClassificationHead(64, 4)
    head.linear.weight.data.mul_(40)
    model = AudioModel(nano(), FRONT_END, head=head, labels=LABELS, multi_label=True)
    threshold = {label: 0.3 + 0.1 * index for index, label in enumerate(LABELS)}
    sounds = [NOTES[0], NOTES[1]]
    for result in model.classify(sounds, window=0.32, hop=0.08, top=4, threshold=threshold):
        scores = np.zeros((len(result.windows), 4))
        for row, window in zip(scores, result.windows, strict=True):
            row[[LABELS.index(label) for label in window.labels]] = window.scores
        expected = by_hand(scores[:-1], 32, 8, threshold, 0, 0)  # the last window is shorter
        found = events(result.windows[:-1])
        assert [(round(100 * e.start), round(100 * e.end), e.label, e.score) for e in found] == expected
        assert (scores[scores > 0] >= min(threshold.values())).all()
        assert max(event.end for event in events(result.windows)) <= result.end


def test_top_is_of_what_passes_its_threshold():
    """A likely label with a high threshold must not take the place of one that passes."""
    summary = Summary(["a", "b", "c"], 2, {"a": 0.95, "c": 0.05})
    summary.add(1, 0, 1, np.array([0.8, 0.1, 0.1]))
    assert summary.result().labels == ["b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "label,threshold\nbell,0.25\nflute,1\n",
        "﻿label;threshold\r\nbell;0,25\r\n\r\nflute;1,0\r\n",
        "Threshold\tLabel\n.25\tbell\n1\tflute\n",
        'label,threshold\n"bell", 0.25\n flute ,1e0\n',
    ],
)
def test_thresholds_from_a_file(tmp_path, text):
    """A table as a spreadsheet writes it; a label that it does not name has the threshold of all others."""
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    expected = {"bell": 0.25, "drum": 0.5, "flute": 1.0, "Ωmega": 0.5}
    assert read_thresholds(tmp_path / "t.csv", LABELS, 0.5) == expected
    assert read_thresholds(tmp_path / "t.csv", LABELS)["drum"] == 0


def test_one_label_however_it_is_composed(tmp_path):
    """Labels are compared as tables of clips are: é is é."""
    (tmp_path / "t.csv").write_text("label,threshold\ncafe\u0301,0.3\n", encoding="utf-8")
    assert read_thresholds(tmp_path / "t.csv", ["caf\u00e9"]) == {"caf\u00e9": 0.3}
    assert read_thresholds(tmp_path / "t.csv", ["caf\u00e9", "cafe\u0301"]) == {"caf\u00e9": 0, "cafe\u0301": 0.3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,threshold\nbell,0.5\nbel,0.5\n", "line 3: did you mean 'bell'?"),
        ("label,threshold\ncymbal,0.5\n", "unknown key 'cymbal' in {}, line 2: valid keys: bell, drum"),
        ("label,threshold\n,0.5\n", "unknown key '' in {}, line 2"),
        ("label,threshold\nbell,0.5\ndrum,0.1\nbell,0.5\n", "line 4: 'bell' has a threshold in line 2 already"),
        ("label,threshold\nbell,1.01\n", "line 2: threshold must be within 0 and 1, got '1.01' for bell"),
        ("label,threshold\nbell,-0.1\n", "got '-0.1' for bell"),
        ("label,threshold\nbell,nan\n", "got 'nan' for bell"),
        ("label,threshold\nbell,high\n", "got 'high' for bell"),
        ("label,threshold\nbell,\n", "got '' for bell"),
        ("label,threshold\nbell,0,5\n", "line 2: not as many fields as the header has"),
        ("label,score\nbell,0.5\n", "{}: no column 'threshold'; it has label, score"),
        ("bell,0.5\n", "{}: no column 'label'; it has bell, 0.5"),
        ("label,threshold\n", "{}: no rows in it"),
        ("", "{}: empty"),
        (None, "{}: cannot be read: No such file"),
    ],
)
def test_thresholds_that_mean_nothing(tmp_path, text, message):
    """A threshold that is ignored is a label that is never, or always, there: one line names file and row."""
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_thresholds(path, LABELS)
    assert message.format(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hours_of_windows_stay_small():
    """Ten hours in steps of a second are 36,000 windows of 500 classes: what is below its threshold is not kept."""
    labels = [f"label {index}" for index in range(500)]
    summary = Summary(labels, len(labels), 0.99)  # which about 5 of 500 reach
    rng = np.random.default_rng(0)
    tracemalloc.start()
    for second in range(3_600):
        summary.add(1, second, second + 2, rng.random(500, np.float32))
    result = events(summary.result().windows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result) > 10_000
    assert peak < 12e6  # of one hour
