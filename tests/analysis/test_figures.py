"""Figures of a run and of a stem's kernels, and the nearest neighbours of a clip."""

import json

import numpy as np

from aape.analysis.curves import PANELS, plot_runs, read_metrics
from aape.analysis.figures import save_figure
from aape.analysis.kernels import chosen_kernels, mel_position, plot_kernels
from aape.data.log_mel import mel_filter_bank
from aape.inference import AudioModel
from notes import FRONT_END, nano


def test_kernels_of_a_clip_lie_in_the_folded_band(tmp_path):
    """The picture's axes are in Hz and nepers per second, within what the constraints allow."""
    model = AudioModel(nano(), FRONT_END)
    noise = 0.1 * np.random.default_rng(0).standard_normal(74 * 160, dtype=np.float32)  # 75 frames, 4.7 patches
    kernels = chosen_kernels(model, noise)
    assert kernels.frequencies.shape == kernels.decays.shape == (8, 5, 16)
    assert kernels.frequencies.min() > 3.1
    assert kernels.frequencies.max() < 50
    assert kernels.decays.min() > 100 * 2 * np.log(100) / 62
    figure = plot_kernels(kernels, "a clip")
    assert all(axes.get_ylabel() for axes in figure.axes[:3])
    frequencies, decays = (axes.collections[0] for axes in figure.axes[1:3])
    assert np.allclose(frequencies.get_coordinates()[0, :, 0], 0.16 * np.arange(6))  # patches of 160 ms
    for shares in (frequencies, decays):  # every kernel of every time patch is somewhere in the map
        assert np.allclose(np.ma.filled(shares.get_array(), 0).sum(0), 100)
    files = save_figure(figure, tmp_path / "new" / "kernels.png")
    assert [file.name for file in files] == ["kernels.png", "kernels.svg"]
    before = files[1].read_bytes()
    save_figure(plot_kernels(kernels, "a clip"), tmp_path / "new" / "kernels")
    assert files[1].read_bytes() == before  # a figure in a repository changes with its numbers only


def test_mel_positions_are_those_of_the_filter_bank():
    """The spectrogram's axis is in Hz, and must say where the bins really are."""
    bank = mel_filter_bank(16000, 8192, 128, 50.0, 8000.0)
    for bin_, peak in ((5, bank[5].argmax()), (100, bank[100].argmax())):
        assert abs(mel_position(peak * 16000 / 8192, (50.0, 8000.0), 128) - (bin_ + 0.5)) < 0.1


def test_a_run_is_drawn_from_its_metrics(tmp_path):
    """Losses and variances of metrics.jsonl end up on labelled axes."""
    path = tmp_path / "metrics.jsonl"
    fields = [field for panel in PANELS for field in panel[2]]
    lines = [json.dumps({"step": step, **{name: 1.0 + step for name in fields}}) for step in (1, 2, 3)]
    path.write_text("".join(line + "\n" for line in lines))
    figure = plot_runs({"run": read_metrics(path)})
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    assert [len(axes.lines) for axes in figure.axes] == [len(panel[2]) for panel in PANELS]
    figure.savefig(tmp_path / "run.svg")
