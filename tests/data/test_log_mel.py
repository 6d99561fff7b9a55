"""The log-mel front end against its definition, and the statistics that standardise it."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from aape.data.clips import Clip
from aape.data.log_mel import LogMel, measure_statistics, mel_filter_bank
from aape.errors import DataError


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def brute_force(wave: np.ndarray) -> np.ndarray:
    """Method section 1 frame by frame in float64: (samples,) -> (F, T)."""
    wave = wave.astype(np.float64)
    padded = np.pad(wave, 512, mode="reflect" if len(wave) >= 513 else "constant")
    window = np.zeros(1024)
    for n in range(400):
        window[312 + n] = 0.5 * (1 - math.cos(2 * math.pi * n / 400))
    mels = np.linspace(2595 * math.log10(1 + 50 / 700), 2595 * math.log10(1 + 8000 / 700), 130)
    edges = 700 * (10 ** (mels / 2595) - 1)
    columns = []
    for t in range(1 + len(wave) // 160):
        power = np.abs(np.fft.rfft(padded[160 * t : 160 * t + 1024] * window)) ** 2
        column = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k in range(math.ceil(low / 15.625), math.floor(high / 15.625) + 1):
                frequency = k * 15.625
                total += power[k] * min((frequency - low) / (centre - low), (high - frequency) / (high - centre))
            column.append(math.log(max(total, 1e-5)))
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize("num_samples", [1, 159, 160, 512, 513, 514, 1600, 5003])
def test_the_spectrogram_is_its_definition(num_samples: int) -> None:
    wave = noise(num_samples)
    expected = brute_force(wave.numpy())
    exact = LogMel()(wave.double()[None])
    assert exact.dtype == torch.float64
    assert exact.shape == (1, 1, 128, 1 + num_samples // 160)
    np.testing.assert_allclose(exact[0, 0].numpy(), expected, atol=1e-9)
    single = LogMel()(wave[None])
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single[0, 0].numpy(), expected, atol=2e-3)


def test_the_filter_bank_is_that_of_transformers() -> None:
    filters, bins, weights = np.loadtxt(Path(__file__).with_name("mel_filter_bank.csv"), delimiter=",", unpack=True)
    theirs = np.zeros((128, 513))
    theirs[filters.astype(int), bins.astype(int)] = weights
    ours = mel_filter_bank(16000, 1024, 128, 50.0, 8000.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert (ours.max(axis=1) > 0).all()  # a filter without a bin would be a dead row


def test_frames_are_those_of_torch_stft() -> None:
    wave = noise(3, 7000).double()
    window = torch.hann_window(400, periodic=True, dtype=torch.float64)
    power = torch.stft(wave, 1024, 160, 400, window, center=True, return_complex=True).abs().square()
    bank = torch.from_numpy(mel_filter_bank(16000, 1024, 128, 50.0, 8000.0))
    torch.testing.assert_close(LogMel()(wave)[:, 0], (bank @ power).clamp(min=1e-5).log(), atol=1e-9, rtol=0)


def test_a_batch_is_the_same_as_single_clips() -> None:
    waves = noise(4, 9000)
    single = torch.cat([LogMel()(wave[None]) for wave in waves])
    torch.testing.assert_close(LogMel()(waves), single, atol=1e-5, rtol=0)


def test_long_audio_in_pieces_is_the_same_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = noise(1, 40007)
    at_once = LogMel()(wave)
    monkeypatch.setattr("aape.data.log_mel._FRAMES_AT_ONCE", 17)
    torch.testing.assert_close(LogMel()(wave), at_once, atol=1e-5, rtol=0)


def test_mean_and_std_standardise() -> None:
    wave = noise(1, 4000)
    torch.testing.assert_close(LogMel(mean=-3.0, std=4.0)(wave), (LogMel()(wave) + 3.0) / 4.0)


def test_silence_is_the_floor() -> None:
    torch.testing.assert_close(LogMel()(torch.zeros(1, 800)), torch.full((1, 1, 128, 6), math.log(1e-5)))


def test_half_precision_never_touches_the_spectrum() -> None:
    wave = noise(1, 4000)
    expected = LogMel()(wave)
    front_end = LogMel().half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = front_end(wave)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)
    assert front_end(wave.bfloat16()).dtype == torch.float32


def test_gradients_flow_after_use_in_inference_mode() -> None:
    front_end = LogMel()
    with torch.inference_mode():
        front_end(noise(1, 1000))
    wave = noise(1, 1000).requires_grad_()
    front_end(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_it_has_no_state_and_copies() -> None:
    front_end = LogMel(mean=-2.0, std=3.0)
    assert not front_end.state_dict()
    wave = noise(1, 1000)
    expected = front_end(wave)
    assert torch.equal(copy.deepcopy(front_end)(wave), expected)
    assert torch.equal(pickle.loads(pickle.dumps(front_end))(wave), expected)
    with torch.device("meta"):
        assert torch.equal(LogMel(mean=-2.0, std=3.0)(wave), expected)


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (torch.zeros(800), r"\(B, samples\)"),
        (torch.zeros(1, 1, 800), r"\(B, samples\)"),
        (torch.zeros(1, 0), "one sample"),
        (torch.zeros(1, 800, dtype=torch.int16), "floating point"),
    ],
)
def test_a_wrong_waveform_is_named(wave: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LogMel()(wave)


@pytest.mark.parametrize(
    "options", [{"f_max": 9000.0}, {"f_min": 8000.0}, {"win_length": 2048}, {"std": 0.0}, {"mean": math.nan}]
)
def test_an_impossible_front_end_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"no such|need"):
        LogMel(**options)


def write_clips(folder: Path, *lengths: int) -> list[Clip]:
    clips = []
    for index, length in enumerate(lengths):
        path = folder / f"{index}.wav"
        soundfile.write(path, noise(length, seed=index).numpy(), 16000, subtype="FLOAT")
        clips.append(Clip(str(path), path.name))
    return clips


def test_statistics_are_those_of_all_frames_and_list_the_bad_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aape.data.log_mel._FRAMES_AT_ONCE", 23)
    clips = write_clips(tmp_path, 8000, 300, 12345)
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    clips.insert(1, Clip(str(tmp_path / "bad.wav"), "bad.wav"))
    seen = []
    statistics = measure_statistics(clips, progress=lambda done, total: seen.append((done, total)), mean=5.0, std=9.0)
    values = torch.cat([LogMel()(noise(1, n, seed=i)[0][None]).flatten() for i, n in enumerate((8000, 300, 12345))])
    assert statistics.mean == pytest.approx(values.double().mean().item(), abs=1e-5)
    assert statistics.std == pytest.approx(values.double().std(correction=0).item(), abs=1e-5)
    assert statistics.num_clips == 3
    assert statistics.num_frames == len(values) // 128
    assert [name for name, _ in statistics.bad] == ["bad.wav"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_statistics_of_nothing_and_of_silence_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of 1 clips could be read; the first: bad.wav"):
        measure_statistics([Clip(str(tmp_path / "bad.wav"), "bad.wav")])
    with pytest.raises(DataError, match="none of 0 clips"):
        measure_statistics([])
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 16000)
    with pytest.raises(DataError, match="silent"):
        measure_statistics([Clip(str(tmp_path / "silent.wav"), "silent.wav")])
