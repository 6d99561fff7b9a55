"""What a caller brings: every form in which other libraries have a sound is that sound, or is refused in one line."""

import array
import io
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from aape.data.clips import Clip
from aape.errors import AudioError, ConfigError, DataError, RangeWarning
from aape.huggingface import AaPEFeatureExtractor
from aape.inference import AudioModel
from aape.models.heads import ClassificationHead
from decoders import AudioDecoder, DatasetsDecoder, wav
from notes import FRONT_END, NOTES, nano

NOTE = NOTES[0].read_bytes()
WAVE, RATE = soundfile.read(io.BytesIO(NOTE), dtype="float32")
pytestmark = pytest.mark.filterwarnings("error")  # such as PyTorch's about arrays that cannot be written to


@pytest.fixture(scope="module")
def model():
    return AudioModel(nano(), FRONT_END, head=ClassificationHead(64, 2), labels=["a", "b"])


@pytest.fixture(scope="module")
def expected(model):
    return model.embed(NOTES[0])


class BrokenDecoder:
    def get_all_samples(self):
        raise RuntimeError("no stream")


def pipe():
    """A file that cannot seek, gives a little at a time, and has a number for a name."""
    reader, writer = os.pipe()
    os.write(writer, NOTE)
    os.close(writer)
    return os.fdopen(reader, "rb", buffering=0)


def read_only():
    wave = WAVE.copy()
    wave.setflags(write=False)
    return wave


def behind_a_header():
    file = io.BytesIO(b"header" + NOTE)
    file.seek(6)
    return file


WITH_ITS_RATE = {
    "bytes": NOTE,
    "bytearray": bytearray(NOTE),
    "memoryview": memoryview(NOTE),
    "librosa": (WAVE, RATE),
    "soundfile, always_2d": (WAVE[:, None], np.int64(RATE)),
    "torchaudio": (torch.from_numpy(WAVE)[None], torch.tensor(RATE)),
    "a list and a rate": (WAVE.tolist(), float(RATE)),
    "scipy": (RATE, WAVE),
    "datasets": {"path": "moved.wav", "array": WAVE, "sampling_rate": RATE},
    "datasets, not decoded": {"bytes": NOTE, "path": None},
    "datasets, a path": {"bytes": None, "path": str(NOTES[0])},
    "pipeline": {"raw": WAVE, "sampling_rate": RATE},
    "pyannote's spelling": {"array": WAVE, "sample_rate": RATE},
    "torchcodec": AudioDecoder(wav(WAVE, WAVE)),
    "datasets, decoded": DatasetsDecoder(wav(WAVE)),
}
ARRAYS = {
    "read-only": read_only(),
    "negative stride": WAVE[::-1].copy()[::-1],
    "big-endian": WAVE.astype(">f4"),
    "long double": WAVE.astype(np.longdouble),
    "list": WAVE.tolist(),
    "tuple": tuple(WAVE.tolist()),
    "memoryview": memoryview(WAVE),
    "array.array": array.array("f", WAVE.tolist()),
    "with a gradient": torch.from_numpy(WAVE).requires_grad_(),
}


@pytest.mark.parametrize("sound", [*WITH_ITS_RATE.values(), NOTES[0]], ids=[*WITH_ITS_RATE, "path"])
def test_sounds_of_other_libraries(model, expected, sound):
    """People have sounds as their loader gives them; each has its vector, alone and in a list, and its labels."""
    np.testing.assert_allclose(model.embed(sound), expected, atol=1e-5)
    np.testing.assert_allclose(model.embed([sound, (WAVE, RATE)])[0], expected, atol=1e-5)
    np.testing.assert_allclose(model.embed_frames(sound)[0].reshape(-1, 64).mean(0), expected[64:], atol=1e-5)
    assert model.classify(sound).labels == model.classify(WAVE, RATE).labels
    values = AaPEFeatureExtractor(FRONT_END.__dict__)(sound if isinstance(sound, (bytes, os.PathLike)) else [sound])
    assert len(values["input_values"]) == 1


def test_columns_of_datasets_and_data_frames(model, expected):
    """`dataset["audio"]` and `frame["audio"]` are no lists, and are what people pass."""
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    paths = datasets.Dataset.from_dict({"audio": list(map(str, NOTES[:2]))})
    undecoded = paths.cast_column("audio", datasets.Audio(decode=False))
    frame = pandas.DataFrame({"audio": [{"bytes": NOTE, "path": "a"}, {"bytes": NOTES[1].read_bytes(), "path": "b"}]})
    both = np.stack([expected, model.embed(NOTES[1])])
    for column in (undecoded["audio"], undecoded[:2]["audio"], frame["audio"], frame["audio"].to_numpy()):
        np.testing.assert_allclose(model.embed(column), both, atol=1e-5)
        assert len(model.classify(column)) == 2
        assert len(AaPEFeatureExtractor(FRONT_END.__dict__)(column)["input_values"]) == 2
        with pytest.raises(AudioError, match="a list: one clip at a time"):
            model.embed_frames(column)
    vectors = undecoded.map(lambda row: {"vector": model.embed(row["audio"])})["vector"]
    np.testing.assert_allclose(np.array(vectors[:]), both, atol=1e-5)


def test_a_decoder_brings_its_rate_to_a_feature_extractor():
    """A file is resampled, so what has been decoded must be, too, unless another rate is stated."""
    extractor = AaPEFeatureExtractor(FRONT_END.__dict__)
    values = extractor(AudioDecoder(wav(WAVE, rate=8000)))["input_values"]
    np.testing.assert_allclose(values, extractor(wav(WAVE, rate=8000))["input_values"], atol=1e-3)
    with pytest.raises(AudioError, match="its sample rate is 8000 Hz, and 16000 was expected: resample it"):
        extractor(AudioDecoder(wav(WAVE, rate=8000)), sampling_rate=16000)


@pytest.mark.parametrize("open_one", [lambda: io.BytesIO(NOTE), lambda: NOTES[0].open("rb"), behind_a_header])
def test_open_files(model, expected, open_one):
    """What `open`, an archive or a download gives is read from where it stands, which stays the caller's to close."""
    with open_one() as file:
        assert np.array_equal(model.embed(file), expected)
        assert not file.closed
        with pytest.raises(AudioError, match=r"no bytes from where it stands to its end: seek\(0\)"):
            model.embed(file)


def test_a_pipe_is_read_to_its_end(model, expected):
    """`cat sound | python` gives a little at a time: half a sound must not become a vector."""
    with pipe() as file:
        assert np.array_equal(model.embed(file), expected)


@pytest.mark.parametrize("wave", ARRAYS.values(), ids=ARRAYS)
def test_any_memory_layout(model, expected, wave):
    """A view, a foreign byte order or a locked array must neither change the vector nor warn."""
    np.testing.assert_allclose(model.embed(wave, RATE), expected, atol=1e-5)
    np.testing.assert_allclose(model.embed([wave, WAVE], RATE)[0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_a_sound(model, dtype):
    """numpy has no bfloat16, which must not be the user's trouble."""
    half = torch.from_numpy(WAVE).to(dtype)
    assert np.array_equal(model.embed(half, RATE), model.embed(half.float(), RATE))


def test_lists_of_numbers(model, expected):
    """Lists of any lengths are clips, of equal lengths the rows of an array; a pair of numbers is two samples."""
    several = model.embed([WAVE.tolist(), WAVE[:-500].tolist()], RATE)
    np.testing.assert_allclose(several, [expected, model.embed(WAVE[:-500], RATE)], atol=1e-5)
    np.testing.assert_allclose(model.embed([WAVE.tolist()] * 2, RATE), [expected] * 2, atol=1e-5)
    assert np.array_equal(model.embed((0.1, 0.2), RATE), model.embed(np.array([0.1, 0.2]), RATE))


def test_a_mix_in_a_list(model, expected):
    """A table of sounds from several places is one batch."""
    mixed = [WAVE, NOTES[0], NOTE, io.BytesIO(NOTE), *WITH_ITS_RATE.values(), WAVE.tolist()]
    np.testing.assert_allclose(model.embed(mixed, RATE), [expected] * len(mixed), atol=1e-5)


STEREO = np.stack([1.5 * WAVE, 0.5 * WAVE])
CALLS = ("embed", "embed_windows", "embed_frames", "classify")


@pytest.mark.parametrize("call", CALLS)
def test_channels_are_averaged_where_an_array_says_that_it_has_them(model, call):
    """torchaudio's two channels taken for two clips are two wrong vectors, and no error."""

    def result(sound, rate=None, **options):
        value = getattr(model, call)(sound, rate, **options)
        return value.scores if call == "classify" else value if call == "embed" else value[0]

    mono = result(WAVE, RATE)
    several = np.stack([WAVE * factor for factor in np.linspace(0, 2, 64)])
    for sound in (STEREO, torch.from_numpy(STEREO), STEREO.tolist(), WAVE[None], several):
        np.testing.assert_allclose(result(sound, RATE, channels_first=True), mono, atol=1e-3, rtol=1e-3)
    rows = [(STEREO, RATE), (RATE, STEREO), {"array": STEREO.tolist(), "sampling_rate": RATE}, (WAVE[None], RATE),
            (torch.from_numpy(STEREO), torch.tensor(RATE)), (np.stack([WAVE] * 8), RATE), (WAVE, RATE)]  # fmt: skip
    for row in rows:
        np.testing.assert_allclose(result(row), mono, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(result(row, channels_first=True), mono, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(result((STEREO, None), RATE), mono, atol=1e-4, rtol=1e-4)


def test_channels_in_lists(model, expected):
    """A list may have recordings of one and of several channels, each with or without its rate."""
    sounds = [STEREO, (WAVE, RATE), (STEREO, RATE), NOTES[0], STEREO[:, :-1], torch.from_numpy(STEREO)]
    vectors = model.embed(sounds, RATE, channels_first=True)
    np.testing.assert_allclose(vectors[[0, 1, 2, 3, 5]], [expected] * 5, atol=1e-5)
    np.testing.assert_allclose(vectors[4], model.embed(WAVE[:-1], RATE), atol=1e-5)
    np.testing.assert_allclose(model.embed([(STEREO, RATE), WAVE], RATE), [expected] * 2, atol=1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("sound", "options", "reason"),
    [
        (WAVE, {}, "channels_first is for arrays (channels, samples)"),
        ([WAVE], {}, "clip 0: of shape (16000,): channels_first is for"),
        (STEREO.T, {}, "looks like (samples, channels): transpose it"),
        (np.stack([WAVE] * 65), {}, "(channels, samples) has at most 64 channels"),
        (STEREO[None], {}, "expected (samples,), or (channels, samples)"),
        (STEREO, {"lengths": [5, 5]}, "lengths are for the rows of an array (clips, samples)"),
        (STEREO[:, :0], {}, "of shape (2, 0): no samples in it"),
    ],
)
def test_what_has_no_channels_first(model, call, sound, options, reason):
    """What the option cannot mean is said, and never guessed."""
    if options and call in ("embed_windows", "embed_frames"):
        return
    with pytest.raises(AudioError) as caught:
        getattr(model, call)(sound, RATE, channels_first=True, **options)
    assert reason.replace("16000", str(len(WAVE))) in str(caught.value)


def test_arrays_that_say_nothing_of_channels(model):
    """(2, n) is two clips, as ever; (n, 2) is refused, and where there are times both are."""
    assert model.embed(STEREO, RATE).shape == (2, 128)
    for sound, call in ((STEREO.T, "embed"), (STEREO.T, "embed_frames"), (STEREO.T, "classify")):
        with pytest.raises(AudioError, match="looks like"):
            getattr(model, call)(sound, RATE)
    for call in ("embed_windows", "embed_frames"):
        with pytest.raises(AudioError, match=r"one clip at a time, .*channels_first=True if its rows are channels"):
            getattr(model, call)(STEREO, RATE)


EMPTY = io.BytesIO()
soundfile.write(EMPTY, np.zeros(0), RATE, format="WAV")
nothing = SimpleNamespace(data=torch.zeros(1, 0), sample_rate=RATE)


@pytest.mark.parametrize(
    ("empty", "reason"),
    [
        (np.zeros(0, np.float32), "of shape (0,): no samples in it"),
        ([], "of shape (0,): no samples in it"),
        (torch.zeros(0), "of shape (0,): no samples in it"),
        ((np.zeros((2, 0)), RATE), "of shape (2, 0): no samples in it"),
        ({"array": [], "sampling_rate": RATE}, "of shape (0,): no samples in it"),
        (SimpleNamespace(get_all_samples=lambda: nothing), "of shape (0,): no samples in it"),
        (EMPTY.getvalue(), "no audio in it"),
        ({"bytes": EMPTY.getvalue(), "path": None}, "no audio in it"),
        (b"", "the file is empty"),
    ],
)  # fmt: skip
def test_a_sound_of_no_samples_in_a_batch_is_named(model, empty, reason):
    """Left out, it would shift the vectors of all that follow; a vector of nothing would be a wrong one."""
    for call in (model.embed, model.classify):
        with pytest.raises(AudioError, match=re.escape(f", clip 1: {reason}")):
            call([WAVE, empty, WAVE], RATE)


@pytest.mark.parametrize("size", [0, -3, 1.5, "16", None, np.nan])
def test_a_batch_is_of_one_or_more(model, size):
    """A batch of 0 has no meaning, and one of 1.5 is somebody's division."""
    clips = [Clip(str(NOTES[0]), "a")]
    for call in (
        model.embed_clips,
        model.classify_clips,
        lambda clips, batch_size: model.embed_files([NOTES[0]], batch_size=batch_size),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"batch_size must be 1 or more, got {size!r}")):
            call(clips, batch_size=size)


@pytest.mark.parametrize(
    ("sound", "rate", "reason"),
    [
        (io.StringIO("text"), None, "file: it does not give bytes: open the file as binary"),
        (b"no sound" * 9, None, "72 bytes of audio: not a readable sound file"),
        (b"", None, "the file is empty"),
        ((STEREO.T, RATE), None, "looks like (samples, channels): transpose it"),
        ({"array": STEREO.T.tolist(), "sampling_rate": RATE}, None, "looks like (samples, channels): transpose it"),
        ((np.stack([WAVE] * 9), RATE), None, "(channels, samples) has at most 8 channels, and more samples"),
        ((STEREO[:, :2], RATE), None, "of shape (2, 2): (channels, samples) has at most 8"),
        ((STEREO[None], RATE), None, "expected (samples,), or (channels, samples)"),
        ((np.stack([WAVE, WAVE * np.nan]), RATE), None, "channel 1: NaN or infinite"),
        ((WAVE, None), None, "an array does not know its sample rate: pass it"),
        ([(WAVE, RATE), (WAVE, None)], None, "clip 1: an array does not know its sample rate: pass it"),
        ([STEREO], RATE, "clip 0: of shape"),
        ((RATE, np.ones(9, np.int16)), None, "divide by 32768"),
        ([1, 2, 3], RATE, "int64 values: samples must be floating point, in -1..1: divide 16-bit ones by 32768"),
        (np.zeros(9, np.uint8), RATE, "subtract 128 and divide by 128"),
        ((WAVE, RATE), 8000, "its sample rate is 16000 Hz, and 8000 was expected"),
        ({"array": WAVE, "sampling_rate": RATE}, 8000, "its sample rate is 16000 Hz, and 8000 was expected"),
        (AudioDecoder(wav(WAVE)), 8000, "and 8000 was expected: resample it, or leave the other rate out"),
        ({"array": WAVE * np.nan, "sampling_rate": RATE, "path": "the.wav"}, None, "the.wav: NaN or infinite samples"),
        ([NOTE, {"bytes": b"no sound", "path": "the.wav"}], None, "the.wav: not a readable sound file"),
        ({"bytes": b"no sound", "path": "the.wav"}, None, "the.wav: not a readable sound file"),
        (BrokenDecoder(), None, "its decoder says: no stream"),
        ({"array": WAVE}, None, "an array does not know its sample rate: pass it"),
        ({"array": WAVE, "sampling_rate": "fast"}, None, "a sample rate of 'fast'"),
        ({"audio": {"array": WAVE}, "label": 1}, None, "a mapping of 'audio', 'label': it must have 'array' and"),
        ({"bytes": None, "path": None}, None, "a mapping of 'bytes', 'path': it must"),
        ({}, None, "a mapping of nothing"),
        ([], RATE, "no samples"),
        (None, None, "pass samples and their rate, a path, a file opened as binary, its bytes, or a list of such"),
        ([NOTE, b"no sound"], None, "file, clip 1: not a readable sound file"),
        ([NOTE, io.BytesIO(NOTE[:500])], None, "file, clip 1: "),
        (np.ma.masked_array(WAVE, WAVE > 0), RATE, "masked samples: fill them in first"),
        ((WAVE, [None]), RATE, "clip 1: object"),
        ([WAVE, None], RATE, "clip 1: object values are no samples: pass samples and their rate"),
        ([WAVE, RATE], RATE, "clip 1: of shape (): expected (samples,)"),
        (np.array(["a.wav", "b.wav"]), RATE, "or a list of such"),
        ((name for name in ["a.wav"]), RATE, "or a list of such"),
    ],
)
def test_what_is_no_sound_is_refused(model, sound, rate, reason):
    """One line that says what to pass, never a traceback of a library, and never the vector of something else."""
    with pytest.raises(AudioError) as caught:
        model.embed(sound, rate)
    assert reason in str(caught.value)


def test_files_that_cannot_be_read(model, tmp_path, monkeypatch):
    """Closed, for writing, an endless device, a text file: the name of the file is in the line."""
    monkeypatch.setattr("aape.data.audio.decoding.MAX_CONTENT_BYTES", 1000)
    with NOTES[0].open("rb") as closed:
        pass
    with open(tmp_path / "new.wav", "wb") as new, open("/dev/zero", "rb") as zero, open(NOTES[0]) as text:
        for file, reason in (
            (closed, "cannot be read: read of closed file"),
            (new, "new.wav: cannot be read"),
            (zero, "/dev/zero: over 1000 bytes in an open file: give its path"),
            (text, "open the file as binary"),
        ):
            with pytest.raises(AudioError, match=reason):
                model.embed(file)


def test_lengths_belong_to_rows(model):
    """A length that is ignored gives the vector of the padding too."""
    for sound in (io.BytesIO(NOTE), NOTE, (WAVE, RATE), {"array": WAVE, "sampling_rate": RATE}):
        with pytest.raises(AudioError, match="lengths are for the rows of an array"):
            model.embed(sound, lengths=[300])


@pytest.mark.parametrize(
    "inputs", [None, 3, NOTE, io.BytesIO(NOTE), [io.BytesIO(NOTE)], [NOTES[0], None], [(WAVE, RATE)]]
)
def test_files_are_paths(model, inputs):
    """Names come back with the vectors, so that what has none is refused in one line."""
    with pytest.raises(DataError, match="not a path; `embed` and `classify` take arrays and open files"):
        model.embed_files(inputs)
    assert model.embed_files(path for path in NOTES[:2])[0].shape == (2, 128)


def test_an_array_outside_the_range_of_the_front_end_is_a_warning(model):
    """The calls of a bat would get the vector of silence, without a word."""
    tone = 0.5 * np.sin(2 * np.pi * 40000 * np.arange(192000) / 384000)
    with pytest.warns(RangeWarning, match="array, clip 1: over 99% of its energy lies above 8 kHz"):
        model.embed(np.stack([np.resize(WAVE, len(tone)), tone]), 384000)
