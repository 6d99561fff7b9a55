"""Score encoders on every labelled set: what decisions about recipes go by.

    python experiments/small_data/judge.py tiny runs/mine...

Each encoder is scored beside untrained ones of its shape and log-mel statistics, with every pool, by the ridge of
experiments/pooling, whose penalty is chosen on the training part. Sets: instruments, drums, letters and effects of
`--corpus`, and of `--rendered` 1,000 training and 1,000 test clips each of words and rates. Digits and notes are kept
for the end: no decision goes by them, and `--final` scores them too. Vectors are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pooling"))
from pooling import SETS, Protocol, predict, read_set, vectors_of

from aape.data.clips import Clip, load_clip
from aape.data.labelled import LabelledSet, read_csv
from aape.data.log_mel import time_statistics
from aape.downstream.features import Vectors, compute_once
from aape.downstream.metrics import accuracy, balanced_accuracy, bootstrap_scores, confusion_matrix, percentile_interval
from aape.downstream.partitions import Partition, split_partition
from aape.inference import AudioModel, load_model, random_model
from aape.models.pooling import POOLS, pool
from aape.pretraining.clip_statistics import modulation_energies

RENDERED = {"words": Protocol(None, "source", resampled=True), "rates": Protocol(None, "source", resampled=True),
            "notes": Protocol(None, "source", resampled=True)}  # fmt: skip
JUDGED, KEPT = ("instruments", "drums", "letters", "effects", "words", "rates"), ("digits", "notes")
BALANCED = ("effects",)  # sets whose score is the balanced accuracy
MOST = 1000  # training and test clips of a rendered set
BATCH = 16
ENCODER, UNTRAINED, STATISTICS, MODULATIONS = (
    "encoder",
    "untrained",
    "log-mel statistics",
    "statistics with modulations",
)
LOOP_TO = 3.0


class Scored(NamedTuple):
    """A score in per cent, and 10,000 bootstrap samples of it."""

    value: float
    draws: NDArray[np.float64]


Scores = dict[tuple[str, str, str], Scored]  # by who, pool and set


class Set(NamedTuple):
    """A labelled set, and how it is scored."""

    name: str
    labelled: LabelledSet
    parts: list[Partition]
    groups: NDArray[np.int64]
    units: NDArray[np.int64] | None  # what is drawn together, of the tested clips


def read(name: str, corpus: Path, rendered: Path) -> Set:
    """Read a set; of a rendered one the first clips, which are an even sample of all classes."""
    protocol = SETS.get(name) or RENDERED[name]
    if name in SETS:
        labelled, parts = read_set(corpus, name)
    else:
        labelled = read_csv(rendered / name / "clips.csv", split="split", group=protocol.group)
        counts: Counter[str | None] = Counter()
        dropped = set()
        for clip in labelled.clips:
            counts[clip.split] += 1
            if clip.split not in ("train", "test") or counts[clip.split] > MOST:
                dropped.add(clip.name)
        labelled = labelled.without(dropped)
        parts = [split_partition([clip.split for clip in labelled.clips], [clip.name for clip in labelled.clips])]
    groups = np.unique(labelled.groups or [], return_inverse=True)[1]
    tested = np.concatenate([part.test for part in parts])
    return Set(name, labelled, parts, groups, groups[tested] if protocol.resampled else None)


def looped(clip: Clip, model: AudioModel) -> torch.Tensor:
    """Read a clip, and loop it to the length of training; its log-mel (1, F, T)."""
    rate = model.log_mel.sample_rate
    wave = load_clip(clip, sample_rate=rate)
    mel: torch.Tensor = model.log_mel(torch.from_numpy(np.resize(wave, max(len(wave), round(LOOP_TO * rate))))[None])
    return mel[0]


def embed(model: AudioModel, clips: Sequence[Clip]) -> Vectors:
    """Return class token, and mean and standard deviation of each frequency patch, of the last block (n, D + 2 Nf D).

    Clips of one length go through the encoder together.
    """
    num_freq = model.log_mel.n_mels // model.encoder.patch_size
    rows: dict[int, NDArray[np.float32]] = {}
    waiting: defaultdict[int, list[tuple[int, torch.Tensor]]] = defaultdict(list)

    def flush(batch: list[tuple[int, torch.Tensor]]) -> None:
        tokens = model.encoder(torch.stack([mel for _, mel in batch]))
        vectors = torch.cat([pool(tokens, "cls", num_freq), pool(tokens, "frequency_std", num_freq)], -1)
        rows.update(zip((index for index, _ in batch), vectors.float().numpy(), strict=True))
        batch.clear()

    with torch.inference_mode():
        for index, clip in enumerate(clips):
            mel = looped(clip, model)
            mel = F.pad(mel, (0, -mel.shape[-1] % model.encoder.patch_size))
            batch = waiting[mel.shape[-1]]
            batch.append((index, mel))
            if len(batch) == BATCH:
                flush(batch)
        for batch in waiting.values():
            if batch:
                flush(batch)
    return np.stack([rows[index] for index in range(len(clips))]), []


def statistics(model: AudioModel, clips: Sequence[Clip]) -> Vectors:
    """Return the log-mel statistics of every clip, and behind them its modulation energies (n, 4F + 3F)."""
    rows = []
    with torch.inference_mode():
        for clip in clips:
            mel = looped(clip, model)
            everything = torch.ones(1, mel.shape[-1], dtype=torch.bool)
            rows.append(torch.cat([time_statistics(mel), modulation_energies(mel, everything)], 1).numpy())
    return np.concatenate(rows), []


def score(each: Set, x: NDArray[np.float32]) -> Scored:
    """Train and test on every partition of a set."""
    labels = each.labelled.labels()
    guess = np.concatenate([predict(x, labels, each.groups, part)[0] for part in each.parts])
    truth = labels[np.concatenate([part.test for part in each.parts])]
    confusion = confusion_matrix(truth, guess, len(each.labelled.classes))
    is_balanced = each.name in BALANCED
    units = None if each.units is None else [each.units]
    right = [(guess == truth).astype(np.float64)]
    draws = bootstrap_scores([truth], right, units, num_classes=len(each.labelled.classes))[:, int(is_balanced)]
    return Scored(100 * (balanced_accuracy if is_balanced else accuracy)(confusion), 100 * draws)


def score_encoder(name: str, num_untrained: int, sets: Sequence[Set], cache: Path) -> Scores:
    """Score an encoder, its untrained twins and log-mel statistics, without and with modulations: by who, pool, set."""
    trained = load_model(name, device="cpu", precision="float32")
    models = {ENCODER: trained} | {f"{UNTRAINED} {seed}": random_model(trained, seed) for seed in range(num_untrained)}
    scores: Scores = {}
    for each in sets:
        clips = each.labelled.clips
        for who, model in models.items():
            digest = model.fingerprint()
            file = cache / f"{each.name}-{digest[:16]}.npz"
            stored = compute_once(f"judge {digest}", clips, partial(embed, model), file).values
            for kind in POOLS:
                vectors = vectors_of(stored[:, None], kind, 0, model.encoder.embed_dim)
                scores[who, kind, each.name] = score(each, vectors)
        file = cache / f"{each.name}-statistics.npz"  # whatever the front end's mean: features are standardised
        vectors = compute_once("judge statistics and modulations", clips, partial(statistics, trained), file).values
        scores[STATISTICS, "", each.name] = score(each, vectors[:, : 4 * trained.log_mel.n_mels])
        scores[MODULATIONS, "", each.name] = score(each, vectors)
        print(f"{name}: {each.name}", file=sys.stderr, flush=True)
    return scores


def untrained(scores: Scores, kind: str, name: str) -> Scored:
    """Return the mean of the untrained encoders."""
    each = [scored for (who, *what), scored in scores.items() if who.startswith(UNTRAINED) and what == [kind, name]]
    return Scored(float(np.mean([s.value for s in each])), np.mean([s.draws for s in each], 0))


def lead(first: Scored, second: Scored) -> str:
    """Say by how much one is ahead of the other, with the 95 % interval."""
    low, high = percentile_interval(first.draws - second.draws)
    return f"{first.value - second.value:+.1f} ({low:+.1f} to {high:+.1f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


def show(name: str, scores: Scores, names: Sequence[str]) -> list[float]:
    """Print the tables of an encoder; its scores with the pool that is best in the mean of `JUDGED`."""

    def cells(values: list[float]) -> list[str]:
        return [*(f"{value:.1f}" for value in values), f"{np.mean(values[: len(JUDGED)]):.1f}"]

    rows = {kind: [scores[ENCODER, kind, each].value for each in names] for kind in POOLS}
    best = max(POOLS, key=lambda kind: np.mean(rows[kind][: len(JUDGED)]))
    lines = [[f"{kind}{', best' * (kind == best)}", *cells(values)] for kind, values in rows.items()]
    others = {who: [scores[who, "", each] for each in names] for who in (STATISTICS, MODULATIONS)}
    if any(who.startswith(UNTRAINED) for who, _, _ in scores):
        others[UNTRAINED] = [untrained(scores, best, each) for each in names]
    lines += [[who, *cells([scored.value for scored in row])] for who, row in others.items()]
    table([name, *names, f"mean of {len(JUDGED)}"], lines)
    chosen = [scores[ENCODER, best, each] for each in names]
    ahead = [[f"ahead of {who}", *map(lead, chosen, row)] for who, row in others.items()]
    table([f"{name}, {best}", *names], ahead)
    return rows[best]


def main() -> None:
    """Score, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", help="names, saved folders or runs")
    parser.add_argument("--corpus", type=Path, default=Path("data"))
    parser.add_argument("--rendered", type=Path, default=Path("data/stems"))
    parser.add_argument("--cache", type=Path, default=Path("runs/judge"))
    parser.add_argument("--untrained", type=int, default=3, help="random encoders of the same shape beside each")
    parser.add_argument("--final", action="store_true", help="also score the sets that no decision goes by")
    options = parser.parse_args()
    names = JUDGED + KEPT * options.final
    sets = [read(name, options.corpus, options.rendered) for name in names]
    rows = []
    for encoder in options.encoders:
        scores = score_encoder(encoder, options.untrained, sets, options.cache)
        rows.append(show(encoder, scores, names))
    if len(rows) > 1:
        mean, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, spread, strict=True)]
        table([f"{len(rows)} encoders, each with its best pool", *names], [["mean ± standard deviation", *cells]])


if __name__ == "__main__":
    main()
