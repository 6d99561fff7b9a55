"""A collapse is noticed after minutes, not after days."""

import pytest

import collapse
from notes import link_notes, measure


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty notes and their statistics."""
    folder = link_notes(tmp_path_factory.mktemp("corpus") / "sound", 40)
    return str(folder), str(measure(folder))


def test_a_forced_collapse_raises_the_alarm_within_200_steps(corpus, tmp_path, capsys):
    """Momentum 0, no predictor, the same input everywhere: the alarm says so, and what to try."""
    data, stats = corpus
    result = collapse.train(data, tmp_path / "run", 200, 0, collapse.force, stats=stats, **collapse.FORCED)
    assert min(result["alarms"].values()) <= 200
    assert "--optim.momentum-start" in capsys.readouterr().err


def test_a_healthy_run_raises_none(corpus, tmp_path):
    """An alarm that cries wolf is switched off."""
    data, stats = corpus
    assert collapse.train(data, tmp_path / "run", 100, 0, stats=stats, **collapse.HEALTHY)["alarms"] == {}
