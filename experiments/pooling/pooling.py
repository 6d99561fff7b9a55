"""Which vector of a frozen encoder keeps what it knows? Every pool of every block, on five labelled sets.

    python experiments/pooling/pooling.py embed CORPUS     # resumable, into --cache
    python experiments/pooling/pooling.py score CORPUS     # likewise
    python experiments/pooling/pooling.py list CORPUS > runs/probes.txt && aape table run runs/probes.txt
    python experiments/pooling/tables.py CORPUS            # prints every table of the page, and writes scan.csv

The classifier is a ridge on standardised features, one target for each class. Its penalty is chosen on the training
part by leaving one group of clips out (program, kit, speaker, package), in closed form.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from aape.data.clips import load_clip
from aape.data.labelled import LabelledSet, read_csv
from aape.data.log_mel import time_statistics
from aape.downstream.partitions import Partition, fold_partitions, split_partition
from aape.inference import AudioModel, load_model, random_model
from aape.models.pooling import POOLS, pool
from aape.runs.files import write_atomically

Array = NDArray[np.float64]

CACHE = Path("runs/pooling")
LAYERS: tuple[tuple[int, ...], ...] = (
    *((block,) for block in range(1, 13)),
    (4, 5, 6),
    (5, 6, 7, 8),
    (9, 10, 11, 12),
    tuple(range(1, 13)),
)
ENCODERS = ("tiny", "untrained-0", "untrained-1", "untrained-2")
STATISTICS = "log-mel statistics"
# Which are also scored on clips as they are, and probed with a linear layer.
FINALISTS = (
    ("cls_mean", (12,)),
    ("cls", (12,)),
    ("frequency", (12,)),
    ("frequency_std", (12,)),
    ("frequency_std", (6,)),
)
LOOPS = (3, 0)  # seconds that shorter clips are looped to
PENALTIES = np.logspace(-2, 3, 11)  # of features scaled so that the kernel's mean diagonal is 1


class Protocol(NamedTuple):
    """How a set is divided."""

    fold: str | None  # column; one fold is left out at a time
    group: str  # column of what the penalty's choice leaves out
    resampled: bool = False  # whether intervals draw whole groups
    where: str | None = None
    min_fold_clips: int = 1


SETS = {
    "instruments": Protocol(None, "program", resampled=True),
    "drums": Protocol("fold", "fold", resampled=True, min_fold_clips=10),
    "letters": Protocol("fold", "fold", where="language=en"),
    "digits": Protocol("fold", "fold"),
    "effects": Protocol("fold", "source"),
}


def read_set(corpus: Path, name: str) -> tuple[LabelledSet, list[Partition]]:
    """Read a set and what is trained and tested on."""
    protocol = SETS[name]
    columns = {"fold": protocol.fold, "split": None if protocol.fold else "split"}
    labelled = read_csv(corpus / name / "metadata.csv", where=protocol.where, group=protocol.group, **columns)
    names = [clip.name for clip in labelled.clips]
    if protocol.fold is None:
        return labelled, [split_partition([clip.split for clip in labelled.clips], names)]
    folds = [clip.fold for clip in labelled.clips]
    return labelled, fold_partitions(folds, names, min_clips=protocol.min_fold_clips)


def embed(model: AudioModel, labelled: LabelledSet, loop_to: int) -> NDArray[np.float32]:
    """Return class token, and mean and standard deviation of each frequency patch, (n, layers, D + 2 Nf D)."""
    rate, num_freq = model.log_mel.sample_rate, model.log_mel.n_mels // model.encoder.patch_size
    rows = []
    for clip in labelled.clips:
        wave = load_clip(clip, sample_rate=rate)
        wave = np.resize(wave, max(len(wave), loop_to * rate))
        with torch.inference_mode():
            x = model.log_mel(torch.from_numpy(wave)[None])
            x = F.pad(x, (0, -x.shape[-1] % model.encoder.patch_size))
            blocks = model.encoder.forward_layers(x, range(1, len(model.encoder.blocks) + 1))
            tokens = [torch.stack([blocks[layer - 1] for layer in layers]).mean(0) for layers in LAYERS]
            vectors = [torch.cat([pool(t, "cls", num_freq), pool(t, "frequency_std", num_freq)], -1) for t in tokens]
        rows.append(torch.cat(vectors).numpy())
    check(model, load_clip(labelled.clips[0], sample_rate=rate), rows[0], loop_to)
    return np.stack(rows)


def check(model: AudioModel, wave: NDArray[np.float32], row: NDArray[np.float32], loop_to: int) -> None:
    """Compare with what the package returns."""
    model.loop_to = loop_to
    for kind in POOLS:
        for index in (0, 11, 13):
            vector = model.embed(wave, model.log_mel.sample_rate, pool=kind, layers=LAYERS[index])
            stored = vectors_of(row[None], kind, index, model.encoder.embed_dim)[0]
            np.testing.assert_allclose(stored, vector, atol=1e-4)


def vectors_of(stored: NDArray[np.float32], kind: str, index: int, width: int) -> NDArray[np.float32]:
    """Return the vectors (n, E) of a pool and `LAYERS[index]` from what `embed` has stored."""
    part = stored[:, index]
    half = (part.shape[1] - width) // 2
    cls, frequency, both = part[:, :width], part[:, width : width + half], part[:, width:]
    if kind in ("cls_mean", "mean"):
        mean = frequency.reshape(len(part), -1, width).mean(1)
        return np.concatenate([cls, mean], 1) if kind == "cls_mean" else mean
    return {"cls": cls, "frequency": frequency, "frequency_std": both}[kind]


def statistics(model: AudioModel, labelled: LabelledSet, loop_to: int) -> NDArray[np.float32]:
    """Return the log-mel statistics of every clip, (n, 4F)."""
    rate, rows = model.log_mel.sample_rate, []
    for clip in labelled.clips:
        wave = load_clip(clip, sample_rate=rate)
        wave = np.resize(wave, max(len(wave), loop_to * rate))
        rows.append(time_statistics(model.log_mel(torch.from_numpy(wave)[None])[0])[0].numpy())
    return np.stack(rows)


def embed_all(corpus: Path, cache: Path) -> None:
    """Fill the cache."""
    tiny = load_model("tiny", device="cpu")
    models = {name: tiny if name == "tiny" else random_model(tiny, int(name[-1])) for name in ENCODERS}
    for loop_to in LOOPS:
        for name in SETS:
            labelled, _ = read_set(corpus, name)
            for encoder in (STATISTICS, *ENCODERS):
                path = cache / f"{name}-{encoder}-{loop_to}.npy"
                if path.exists():
                    continue
                model = models.get(encoder, tiny)
                values = (statistics if encoder == STATISTICS else embed)(model, labelled, loop_to)
                with (partial := path.with_suffix(".partial")).open("wb") as file:
                    np.save(file, values)
                partial.rename(path)
                print(path.name, values.shape, flush=True)


def predict(x: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], part: Partition) -> tuple[
    NDArray[np.int64], float
]:  # fmt: skip
    """Train a ridge on a partition; return the classes of its test clips, and the penalty."""
    train, test = part.train, part.test
    classes, counts = np.unique(labels[train], return_counts=True)
    weight = np.sqrt(len(train) / len(classes) / counts)[np.searchsorted(classes, labels[train])][:, None]
    std = x[train].std(0)
    z = (x - x[train].mean(0)) * np.where(std > 1e-6, 1 / np.maximum(std, 1e-6), 0) / np.float32(x.shape[1] ** 0.5)
    z -= np.average(z[train], axis=0, weights=weight[:, 0] ** 2).astype(np.float32)
    target = (labels[train][:, None] == classes) - 1 / len(classes)  # every class has the same weight
    seen = z[train] * weight.astype(np.float32)
    values, basis = np.linalg.eigh((seen @ seen.T).astype(np.float64))
    projected = basis.T @ (weight * target)
    losses = []
    for penalty in PENALTIES:
        # The weights are an eigenvector of the kernel, with the eigenvalue 0: the intercept has no penalty.
        inverse = 1 / (np.maximum(values, 0) + penalty)
        dual = basis @ (inverse[:, None] * projected)
        loss = 0.0
        for group in np.unique(groups[train]):
            rows = np.flatnonzero(groups[train] == group)
            block = (basis[rows] * inverse) @ basis[rows].T - weight[rows] @ weight[rows].T / (penalty * len(train))
            loss += np.square(np.linalg.solve(block, dual[rows])).sum()
        losses.append(loss)
    penalty = float(PENALTIES[int(np.argmin(losses))])
    dual = basis @ (projected / (np.maximum(values, 0) + penalty)[:, None])
    return classes[np.argmax(z[test] @ (seen.T @ dual), 1)], penalty


def score_all(corpus: Path, cache: Path) -> None:
    """Predict the test clips of every set with every vector."""
    for loop_to in LOOPS:
        for name in sorted(SETS, key=lambda name: name == "drums"):
            labelled, parts = read_set(corpus, name)
            labels = labelled.labels()
            groups = np.unique(labelled.groups or [], return_inverse=True)[1]
            for encoder in (STATISTICS, *ENCODERS):
                path, source = (cache / f"{name}-{encoder}-{loop_to}.{end}" for end in ("json", "npy"))
                if path.exists() or not source.exists():
                    continue
                stored = np.load(source)
                scored = {}
                for kind in POOLS if encoder != STATISTICS else ("statistics",):
                    for index, layers in enumerate(LAYERS if encoder != STATISTICS else ((0,),)):
                        if encoder != STATISTICS and not loop_to and (kind, layers) not in FINALISTS:
                            continue
                        x = stored if encoder == STATISTICS else vectors_of(stored, kind, index, 192)
                        pairs = [predict(x, labels, groups, part) for part in parts]
                        scored[f"{kind} {title(layers)}"] = {
                            "predictions": np.concatenate([classes for classes, _ in pairs]).tolist(),
                            "penalties": [penalty for _, penalty in pairs],
                        }
                write_atomically(path, json.dumps(scored).encode())
                print(path.name, len(scored), flush=True)


def title(layers: tuple[int, ...]) -> str:
    """Name a choice of blocks: 5, or 5-8."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def list_probes(corpus: Path, cache: Path) -> None:
    """Print a list for `aape table run`: the finalists with the linear layer of `aape probe`, three seeds."""
    rates = "[1e-5,3e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2]"
    for kind, layers in FINALISTS:
        for name, protocol in SETS.items():
            columns = "--split split --group program" if protocol.fold is None else "--fold fold"
            columns += f" --where {protocol.where}" if protocol.where else ""
            columns += " --num-folds 5" if name in ("drums", "digits") else ""
            vector = f"--pool {kind} --layers {','.join(map(str, layers))} --loop-to 3"
            print(
                f"probe --data {corpus / name / 'metadata.csv'} {columns} --checkpoint tiny {vector} --steps 2000"
                f" --learning-rates {rates} --no-yardsticks --out {cache / 'probes' / name}-{kind}-{title(layers)}"
            )


def main() -> None:
    """Do one of the steps."""
    steps = {"embed": embed_all, "score": score_all, "list": list_probes}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=steps)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    steps[options.step](options.corpus, options.cache)


if __name__ == "__main__":
    main()
