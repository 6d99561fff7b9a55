"""The rendered sets: what is drawn, how it is mixed, and that clips are those of the project or a line says why not."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from aape import cli
from aape.errors import AapeError

STEMS = Path(__file__).resolve().parents[2] / "experiments/stems"
sys.path.insert(0, str(STEMS))
pytest.importorskip("mido")

import engines  # noqa: E402
import render  # noqa: E402
import sounds  # noqa: E402
from sounds import CLIP_SAMPLES, FIRST, LAST, SAMPLE_RATE  # noqa: E402

DRAW = {"words": sounds.draw_word, "notes": sounds.draw_phrase, "rates": sounds.draw_texture}
CHECKSUMS = json.loads(render.CHECKSUMS.read_text())


def plans(task, split, count):
    return [DRAW[task](sounds.generator(task, split, index), split, index) for index in range(count)]


@pytest.fixture(scope="module")
def fonts():
    """The soundfonts; skips where the engines are not those of checksums.json, which the script itself reports."""
    try:
        fonts = {name: engines.find_font(name, None) for name in sounds.FONTS}
        versions = {engine: engines.version(engine) for engine in engines.VERSIONS}
    except AapeError as error:
        pytest.skip(str(error))
    checksums = {name: engines.sha256_of(path) for name, path in fonts.items()}
    if checksums != CHECKSUMS["soundfonts"] or versions != {engine: CHECKSUMS[engine] for engine in versions}:
        pytest.skip(f"the engines are not those of checksums.json: {versions}")
    return fonts


@pytest.mark.parametrize("task", sounds.TASKS)
def test_every_class_has_as_many_clips(task):
    labels = [plan.label for plan in plans(task, "test", 2 * 2 * len(sounds.LABELS[task]))]
    assert {labels.count(label) for label in sounds.LABELS[task]} == {4}


def test_no_voice_and_no_program_of_test_is_in_another_split():
    """Else the test would be of voices that the model was trained on."""
    for task, count in (("words", 2000), ("notes", 2200)):
        sources = {split: {plan.source for plan in plans(task, split, count)} for split in sounds.SPLITS}
        assert not sources["train"] & sources["validation"]
        assert not sources["test"] & (sources["train"] | sources["validation"])
    assert [len(voices) for voices in sounds.VOICES.values()] == [40, 7, 15]
    assert len({voice.lower() for voices in sounds.VOICES.values() for voice in voices}) == 62
    test = plans("notes", "test", 2200)
    for family, parts in sounds.FAMILIES.items():
        assert len(parts.programs) == len(set(parts.programs))
        assert not set(parts.validation) & set(parts.test)
        fonts = [plan.font for plan in test if plan.label == family]
        assert [fonts.count(font) for font in sounds.FONTS] == [100, 100]
        assert {p.program for p in test if p.label == family and p.font == sounds.FONTS[0]} == set(parts.test)
        assert {p.program for p in test if p.label == family and p.font != sounds.FONTS[0]} == set(parts.programs)


def test_what_is_recognised_lies_in_every_window():
    """A word outside the window that an experiment takes would be a wrong label."""
    for length in (1, 5000, LAST - FIRST, 3 * CLIP_SAMPLES):
        for position in (0, 0.5, 1 - 1e-9):
            wave = sounds.padded(np.ones(length), position)
            assert wave.shape == (CLIP_SAMPLES,)
            assert not wave[:FIRST].any()
            assert not wave[LAST:].any()
            assert np.count_nonzero(wave) == min(length, LAST - FIRST - (length > LAST - FIRST))
    for phrase in plans("notes", "train", 2000):
        assert FIRST <= phrase.notes[0].onset * 16 <= 0.45 * SAMPLE_RATE
        assert 1 <= len(phrase.notes) <= 4
        assert all(100 <= note.end - note.onset <= 900 for note in phrase.notes)
        low, high = sounds.FAMILIES[phrase.label].keys
        high = min(high, sounds.HIGHEST_KEY.get(phrase.program, high))
        assert all(low <= note.key <= high and 40 <= note.velocity <= 127 for note in phrase.notes)


def test_a_clip_depends_on_its_index_alone():
    for task in sounds.TASKS:
        assert plans(task, "train", 12) == plans(task, "train", 40)[:12]
        assert plans(task, "train", 12) != plans(task, "validation", 12)


@pytest.mark.parametrize("snr", [0, 15])
@pytest.mark.parametrize("exponent", [0, 2])
def test_noise_has_the_drawn_level_and_colour(snr, exponent):
    rng = np.random.default_rng(0)
    tone = sounds.padded(np.sin(np.arange(8000) * 0.3), 0.5)
    noise = sounds.add_noise(rng, tone, snr, exponent) - tone
    assert 10 * np.log10(np.mean(tone[tone != 0] ** 2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
    power = np.abs(np.fft.rfft(noise)) ** 2
    bands = [power[(sounds.frequencies() >= low) & (sounds.frequencies() < 2 * low)].mean() for low in (500, 2000)]
    assert np.log2(bands[0] / bands[1]) / 2 == pytest.approx(exponent, abs=0.2)


@pytest.mark.parametrize("kind", sounds.KINDS)
def test_noise_is_modulated_at_the_drawn_rate(kind):
    """The label is the rate: of the power's spectrum the highest peak must lie there."""
    textures = [(i, t) for i, t in enumerate(plans("rates", "train", 120)) if t.kind == kind]
    errors = []
    for index, texture in textures:
        low, high = (float(edge) for edge in texture.label.split()[1].split("-"))
        assert low <= texture.hertz < high
        power = sounds.foreground(np.random.default_rng(index), texture) ** 2
        spectrum = np.abs(np.fft.rfft(power - power.mean(), 8 * CLIP_SAMPLES))
        hertz = np.fft.rfftfreq(8 * CLIP_SAMPLES, 1 / SAMPLE_RATE)
        audible = (hertz > 2) & (hertz < 70)
        errors.append(abs(np.log2(hertz[audible][spectrum[audible].argmax()] / texture.hertz)))
    assert np.mean(np.array(errors) < 0.1) > 0.85
    assert np.median(errors) < 0.03


def test_a_mixture_has_the_drawn_ratio():
    texture = plans("rates", "test", 1)[0]
    front = sounds.foreground(np.random.default_rng(0), texture)
    background = np.random.default_rng(1).standard_normal(CLIP_SAMPLES)
    behind = sounds.mix(np.random.default_rng(0), texture, background) - front
    assert 10 * np.log10(np.mean(front**2) / np.mean(behind**2)) == pytest.approx(texture.ratio)
    clip = sounds.quantised(front, -6)
    assert np.abs(clip).max() == round(10 ** (-6 / 20) * 32767)


def test_a_score_has_a_slot_for_each_phrase():
    """Times in ms; nothing of one phrase reaches into the next, and the last note ends too."""
    phrases = plans("notes", "train", 22)
    score = engines.midi([engines.slot(phrase) for phrase in phrases])
    assert (score.type, score.ticks_per_beat) == (0, 1000)
    time, events = 0, []
    for message in score.tracks[0]:
        time += message.time
        events.append((time, message))
    assert events[0][1].tempo == 1_000_000
    assert [(t, m.type) for t, m in events[-2:]] == [(22 * 1920, "control_change"), (22 * 1920, "end_of_track")]
    for number, phrase in enumerate(phrases):
        start = number * engines.SLOT + engines.LEAD
        inside = [(t - start, m) for t, m in events if start <= t < start + 1280]
        assert {m.program for t, m in events if start - 600 < t < start and m.type == "program_change"} == {
            phrase.program
        }
        notes = [(t, m.note, m.velocity) for t, m in inside if m.type == "note_on"]
        assert notes == [(note.onset, note.key, note.velocity) for note in phrase.notes]
        bends = [(t, m.pitch) for t, m in inside if m.type == "pitchwheel"]
        assert bool(bends) == bool(phrase.vibrato.depth)
        assert all(abs(pitch) <= 8191 * 60 / 200 + 1 for _, pitch in bends)
        assert all((t - phrase.notes[0].onset) % 10 == 0 for t, _ in bends)
        expression = [m.value for _, m in inside if m.is_cc(11)]
        assert bool(expression) == bool(phrase.tremolo.depth)
        assert all((value / 127) ** 2 >= 1 - phrase.tremolo.depth - 0.02 for value in expression)
    assert 5 < sum(bool(phrase.vibrato.depth) for phrase in phrases) < 17


def lines(capsys):
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("task", ["words", "notes"])
def test_a_missing_engine_is_one_line(tmp_path, capsys, monkeypatch, task):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert render.main(["--out", str(tmp_path / "out"), "--tasks", task]) == 2
    (line,) = lines(capsys)
    assert line.startswith(f"render.py: error: {engines.ENGINE_OF[task]} is missing: apt install fluidsynth")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Engines of another version, which can do nothing but name it."""

    def make(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(0o755)

    make("espeak-ng", "eSpeak NG text-to-speech: 1.52.0  Data at: /usr/share")
    make("fluidsynth", f"FluidSynth runtime version {CHECKSUMS['fluidsynth']}")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_another_version_is_one_line(fake, capsys):
    out = ["--out", str(fake / "out"), "--tasks", "words"]
    assert render.main(out) == 2
    (line,) = lines(capsys)
    assert line.startswith(f"render.py: error: espeak-ng is 1.52.0, and not {CHECKSUMS['espeak-ng']} as in checksums")
    assert line.endswith("--other-engines renders all the same")
    assert render.main([*out, "--other-engines"]) == 2  # goes on, and finds no sound
    assert "no sound at 22050 Hz" in lines(capsys)[-1]


def test_a_missing_or_another_soundfont_is_one_line(fake, capsys):
    command = ["--out", str(fake / "out"), "--tasks", "notes", "--soundfont", str(fake / "font.sf2")]
    assert render.main(command) == 2
    (line,) = lines(capsys)
    assert "FluidR3_GM.sf2 is not at" in line
    assert "--soundfont" in line
    (fake / "font.sf2").write_bytes(b"another")
    assert render.main([*command, "--second-soundfont", str(fake / "font.sf2")]) == 2
    (line,) = lines(capsys)
    assert f"sha256 of {fake}/font.sf2 is {hashlib.sha256(b'another').hexdigest()}, and not 74594e8f" in line


def test_rates_need_the_other_sets(tmp_path, capsys):
    assert render.main(["--out", str(tmp_path), "--tasks", "rates"]) == 2
    assert "rates needs words and notes of as many clips" in lines(capsys)[-1]


def test_a_damaged_record_is_one_line(tmp_path, capsys):
    (tmp_path / "engines.json").write_text('{"words": ')
    assert render.main(["--out", str(tmp_path)]) == 2
    assert "engines.json is damaged" in lines(capsys)[-1]


@pytest.fixture(scope="module")
def small(fonts, tmp_path_factory):
    """The first clips of all sets."""
    out = tmp_path_factory.mktemp("stems")
    counts = ["--train", "44", "--validation", "11", "--test", "22"]
    assert render.main(["--out", str(out / "a"), *counts, "--processes", "1"]) == 0
    return out / "a"


def test_small_sets_begin_as_those_of_the_project(small):
    """Whoever renders fewer clips must get the first ones of the published numbers."""
    made = json.loads((small / "engines.json").read_text())
    assert "differences" not in made
    for task in sounds.TASKS:
        for split in sounds.SPLITS:
            assert made[task][split]["first_sha256"] == CHECKSUMS[task][split]["first_sha256"]


def test_files_agree(small):
    """Labels, sound and spectrogram of a row are of one clip."""
    from aape.data.clips import load_clip
    from aape.data.log_mel import LogMel
    from aape.data.manifest import read_manifest

    torch = render.torch
    for task in sounds.TASKS:
        clips = read_manifest(small / task / "clips.csv", label="label", split="split", group="source")
        digest, rows = hashlib.sha256(), [clip for clip in clips if clip.split == "test"]
        spectra = np.load(small / task / "test.npy")
        assert (spectra.dtype, spectra.shape) == (np.float16, (22, 128, 129))
        for number, (clip, spectrum) in enumerate(zip(rows, spectra, strict=True)):
            assert clip.label == sounds.LABELS[task][number % len(sounds.LABELS[task])]
            wave = load_clip(clip)
            digest.update(np.rint(wave * 32768).astype("<i2").tobytes())
            expected = LogMel()(torch.from_numpy(wave)[None])[0, 0].numpy()
            np.testing.assert_allclose(spectrum, expected, atol=0.02)
        made = json.loads((small / "engines.json").read_text())
        assert digest.hexdigest() == made[task]["test"]["sha256"]
        stats, train = json.loads((small / task / "stats.json").read_text()), np.load(small / task / "train.npy")
        assert stats["mean"] == pytest.approx(train.mean(dtype=float))
        assert stats["std"] == pytest.approx(train.std(dtype=float))


def test_a_clip_does_not_depend_on_its_block(fonts):
    """FluidSynth keeps state between notes: without the primer of a slot this fails."""
    long = engines.render_block("notes", "test", range(40), fonts, {})
    assert (engines.render_block("notes", "test", range(12), fonts, {}).samples == long.samples[:12]).all()
    assert (engines.render_block("notes", "test", range(25, 31), fonts, {}).samples == long.samples[25:31]).all()


def test_a_note_is_heard_where_its_sample_drifts(fonts):
    """Else what nobody hears sets the level of the clip, and noise hides the note."""
    drawn = (
        sounds.draw_phrase(sounds.generator("notes", "train", index), "train", index) for index in range(3000, 4000)
    )
    drifting = [phrase for phrase in drawn if phrase.source == "FluidR3_GM/83"]
    assert len(drifting) > 5
    for wave in engines.play(drifting, fonts["FluidR3_GM"]):
        power = np.abs(np.fft.rfft(wave)) ** 2
        assert power[sounds.frequencies() < 25].sum() < 0.05 * power.sum()


def test_nothing_is_rendered_twice_and_processes_change_nothing(small, tmp_path, capsys, monkeypatch):
    counts = ["--train", "44", "--validation", "11", "--test", "22"]
    again = tmp_path / "again"
    shutil.copytree(small, again)
    (again / "words/test.npy").unlink()
    monkeypatch.setattr(render, "BLOCK", 8)
    before = (again / "notes/test.tar").stat().st_mtime_ns
    assert render.main(["--out", str(again), *counts, "--processes", "2"]) == 0
    assert (again / "notes/test.tar").stat().st_mtime_ns == before
    for path in small.rglob("*.*"):
        if path.name != ".lock":
            assert path.read_bytes() == (again / path.relative_to(small)).read_bytes(), path
    assert render.main(["--out", str(again)]) == 2
    assert "has 44 clips of train, not 20000: choose another --out" in lines(capsys)[-1]


def test_other_clips_are_an_error_and_leave_nothing(fonts, tmp_path, capsys, monkeypatch):
    """Numbers of other sound must not be taken for those of the page."""
    changed = json.loads(json.dumps(CHECKSUMS))
    changed["words"]["train"] |= {"first_sha256": "0" * 64}
    (tmp_path / "checksums.json").write_text(json.dumps(changed))
    monkeypatch.setattr(render, "CHECKSUMS", tmp_path / "checksums.json")
    command = [
        "--out",
        str(tmp_path / "out"),
        "--tasks",
        "words",
        "--train",
        "10",
        "--validation",
        "10",
        "--test",
        "10",
    ]
    assert render.main([*command, "--processes", "1"]) == 2
    (line,) = lines(capsys)
    assert "sha256 of the first 10 clips of words, train is" in line
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert render.main([*command, "--processes", "1", "--other-engines"]) == 0
    (difference,) = json.loads((tmp_path / "out/engines.json").read_text())["differences"]
    assert difference.endswith(f"and not {'0' * 64} as in checksums.json")


@pytest.mark.slow
def test_the_commands_read_it(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(small / "words/clips.csv"), "--device", "cpu"]
    probe = ["probe", *data, "--split=split", "--checkpoint=tiny", "--steps=2", "--seeds=1", "--no-yardsticks"]
    assert cli.main([*probe, "--learning-rates", "[1e-3]", "--out", "probe"]) == 0
    assert cli.main(["pretrain", *data, "--model=nano", "--steps=1", "--clips=2", "--workers=0", "--out=nano"]) == 0
