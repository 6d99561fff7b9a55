"""Eight clips a class and a logistic regression, as MAEB (mteb) scores audio classification (docs/method.md 9).

n clips, D features.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from aape.downstream.partitions import Indices
from aape.downstream.probing import MEANING as PROBING_MEANING
from aape.downstream.probing import Method, ProbeProtocol, ProbeScores, score_predictions
from aape.errors import ConfigError

SHOTS, DRAWS, SEED, MAX_ITERATIONS = 8, 10, 42, 100  # mteb's
MEANING = {
    "last": "the test score of the fitted classifier, which has no steps",
    "mean": "over folds and draws; balanced accuracy is the mean recall of the classes present in a test set, f1 the "
    "mean over the classes that are present or predicted",
    "std_seeds": "sample standard deviation over draws of the mean over folds; `values` has a list for each draw",
    "std_folds": "sample standard deviation over folds of the mean over draws",
    "interval": PROBING_MEANING["interval"],
    "untrained": "one random initialisation per seed; draw i takes initialisation i modulo their number",
    "not_converged": f"fits that stopped at {MAX_ITERATIONS} iterations, or failed before, as mteb lets them",
}


def require_sklearn() -> None:
    """Raise a ConfigError where scikit-learn is missing: now, rather than after the embedding."""
    if find_spec("sklearn") is None:
        raise ConfigError("protocol: few-shot needs scikit-learn: pip install 'aape[sklearn]'")


def draw_clips(labels: NDArray[np.int64]) -> list[Indices]:
    """Draw training sets of `SHOTS` clips a class, or as many as there are: those that mteb 2 draws.

    Args:
        labels: classes of the training clips, (n,), in the order of the data set.

    Returns:
        For each of `DRAWS` draws, the positions of its clips, in the order in which they were drawn.
    """
    order, draws = list(range(len(labels))), []
    for _ in range(DRAWS):
        # mteb seeds every draw alike, and shuffles what the last one left.
        np.random.RandomState(SEED).shuffle(order)
        counts: Counter[int] = Counter()
        chosen = []
        for index in order:
            counts[label := int(labels[index])] += 1
            if counts[label] <= SHOTS:
                chosen.append(index)
        draws.append(np.asarray(chosen))
    return draws


def scarce_classes(protocol: ProbeProtocol) -> list[int]:
    """Return the classes that have fewer than `SHOTS` clips, but some, in a training set."""
    counts = [np.bincount(protocol.labels[part.train], minlength=protocol.num_classes) for part in protocol.partitions]
    return np.flatnonzero(np.any([(count > 0) & (count < SHOTS) for count in counts], axis=0)).tolist()


def score(
    features: NDArray[np.float32], protocol: ProbeProtocol, progress: Callable[[int], None] | None = None
) -> ProbeScores:
    """Fit a classifier on every draw from every training set, and summarise; see `aape.downstream.probing.score`."""
    predictions: list[list[Indices]] = []
    num_failed = 0
    for partition in protocol.partitions:
        predictions.append([])
        for number, draw in enumerate(draw_clips(protocol.labels[partition.train])):
            matrix, train = features[number % len(features)], partition.train[draw]
            named, has_converged = _classify(matrix[train], protocol.labels[train], matrix[partition.test])
            predictions[-1].append(named)
            num_failed += not has_converged
            if progress is not None:
                progress(1)
    fits = {"num_fits": FEW_SHOT.num_fits(protocol), "not_converged": num_failed}
    return score_predictions(protocol, predictions, num_features=features.shape[-1], shots=SHOTS, **fits)


def _classify(train: NDArray, labels: NDArray[np.int64], test: NDArray) -> tuple[Indices, bool]:
    """Return the classes of the test clips, and whether the fit has converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = LogisticRegression(max_iter=MAX_ITERATIONS, random_state=SEED).fit(train, labels)
    has_converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            has_converged = False  # counted, and said once for all fits
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return classifier.predict(test).astype(np.int64), has_converged


FEW_SHOT = Method(
    "logistic regressions", score, lambda protocol: DRAWS * len(protocol.partitions), MEANING,
    f"{SHOTS} clips a class, {DRAWS} draws",
)  # fmt: skip
