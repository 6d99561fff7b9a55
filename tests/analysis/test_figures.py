"""What a user would lose: a look at their run and into the stem."""

import json

import numpy as np
import torch

from aape.analysis.numbers import chosen_kernels, nearest_neighbours, read_metrics
from aape.analysis.plots import LOSSES, VARIANCES, plot_kernels, plot_pretraining
from aape.config import encoder_config
from aape.models.encoder import AudioEncoder


def test_kernels_of_a_clip_lie_in_the_folded_band(tmp_path):
    """The picture's axes are in Hz and nepers per second, within what the constraints allow."""
    spectrogram = torch.randn(1, 1, 128, 75)  # its last patch reaches past the end
    kernels = chosen_kernels(AudioEncoder(encoder_config("nano")).eval(), spectrogram)
    assert kernels.frequencies.shape == kernels.decays.shape == (8, 5, 16)
    assert kernels.frequencies.min() > 3.1
    assert kernels.frequencies.max() < 50
    assert kernels.decays.min() > 100 * 2 * np.log(100) / 62
    figure = plot_kernels(spectrogram[0, 0].numpy(), kernels, "a clip")
    assert all(axes.get_ylabel() for axes in figure.axes[:3])
    assert np.allclose(figure.axes[1].lines[0].get_xdata(), [0.08, 0.24, 0.40, 0.56, 0.72])  # centres of 160 ms patches
    figure.savefig(tmp_path / "kernels.png")


def test_a_run_is_drawn_from_its_metrics(tmp_path):
    """Losses and variances of metrics.jsonl end up on labelled axes."""
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": step, **{name: 1.0 + step for name in {**LOSSES, **VARIANCES}}} for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = plot_pretraining(read_metrics(path))
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "step"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    figure.savefig(tmp_path / "run.svg")


def test_nearest_neighbours_leave_out_the_query_and_find_its_twin():
    """A search that returned the query, or missed its copy, would be useless."""
    vectors = np.random.default_rng(0).normal(size=(10, 6))
    vectors[7] = vectors[2] + 1e-3
    ((first, cosine), *_) = nearest_neighbours(vectors, [2], 3)[0]
    assert first == 7
    assert cosine > 0.99


def test_nearest_neighbours_of_a_small_set_never_hold_the_query():
    """Asked for more than there are, it gives what there is."""
    found = nearest_neighbours(np.random.default_rng(0).normal(size=(3, 6)), [1], 5)[0]
    assert sorted(row for row, _ in found) == [0, 2]
    assert all(np.isfinite(cosine) for _, cosine in found)
