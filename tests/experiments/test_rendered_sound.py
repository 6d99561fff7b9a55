"""Rendered sound for the pre-training: nothing that a test is of, the same clips again, and `aape` reads them."""

import csv
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from aape import cli
from aape.data.clips import load_clip
from aape.data.manifest import read_manifest
from aape.errors import AapeError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "experiments/small_data"
sys.path.append(str(SMALL))
pytest.importorskip("mido")

spec = importlib.util.spec_from_file_location("rendered_sound", SMALL / "render.py")  # there is another render.py
render = importlib.util.module_from_spec(spec)
spec.loader.exec_module(render)
engines, phrases, sounds, speech, textures = (
    getattr(render, name) for name in ("engines", "phrases", "sounds", "speech", "textures")
)


@pytest.fixture(scope="module")
def font():
    """The soundfont; skips where an engine is missing, which the script itself reports."""
    try:
        for engine in engines.VERSIONS:
            engines.version(engine)
        return engines.find_font(render.FONT, None)
    except AapeError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(render, "SHARD", 8)
    monkeypatch.setattr(render, "BLOCK", 5)


def rngs(kind, indices):
    return [render.generator(0, kind, index) for index in indices]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_program_of_a_test_is_played():
    """Else scores on held-out programs would be of programs that the encoder was trained on."""
    drawn = [part for rng in rngs("phrases", range(3000)) for part in phrases.draw(rng)]
    drawn += [part for rng in rngs("hits", range(3000)) for part in phrases.draw_hit(rng)]
    programs = {part.program for part in drawn if part.channel != phrases.DRUMS}
    assert programs == set(range(128)) - phrases.HELD_OUT
    assert all(phrases.PROGRAMS)  # of every family something
    for family in sounds.FAMILIES.values():
        assert not programs & {*family.validation, *family.test}
    demo = rows_of(ROOT / "src/aape/data/demo/metadata.csv")
    assert {int(row["program"]) for row in demo if row["split"] == "test"} <= phrases.OF_INSTRUMENTS
    assert {part.program for part in drawn if part.channel == phrases.DRUMS} == set(phrases.KITS)


def test_held_out_programs_are_those_of_the_instruments():
    path = ROOT / "data/instruments/metadata.csv"
    if not path.exists():
        pytest.skip("the instruments are not in data/")
    rows = rows_of(path)
    assert {int(row["program"]) for row in rows if row["split"] == "test_program"} == phrases.OF_INSTRUMENTS


def recordings(font):
    """For each program of a soundfont, the samples that it plays (SoundFont 2.04, section 7)."""
    content = font.read_bytes()
    content = content[content.rindex(b"pdtaphdr") :]

    def chunk(name, *fields):
        start = content.index(name) + 8
        size = int.from_bytes(content[start - 4 : start], "little")
        return np.frombuffer(content[start : start + size], np.dtype([*fields]))

    def of(zones, generators, first, last, kind):
        steps = range(generators_of(zones, first), generators_of(zones, last))
        return {int(generators["amount"][step]) for step in steps if generators["kind"][step] == kind}

    def generators_of(zones, number):
        return int(zones["generator"][number])

    zone = (("generator", "<u2"), ("modulator", "<u2"))
    generator = (("kind", "<u2"), ("amount", "<u2"))
    presets = chunk(b"phdr", ("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("zone", "<u2"), ("rest", "V12"))
    instruments = chunk(b"inst", ("name", "S20"), ("zone", "<u2"))
    preset_zones, preset_generators = chunk(b"pbag", *zone), chunk(b"pgen", *generator)
    zones, generators = chunk(b"ibag", *zone), chunk(b"igen", *generator)
    samples = {}
    for this, after in itertools.pairwise(presets):
        if this["bank"] == 0:
            played = of(preset_zones, preset_generators, this["zone"], after["zone"], 41)
            samples[int(this["program"])] = {
                sample
                for number in played
                for sample in of(zones, generators, instruments["zone"][number], instruments["zone"][number + 1], 53)
            }
    return samples


def test_no_recording_of_a_test_is_played(font):
    """Programs of one soundfont share recordings: Fiddle is Violin under another name."""
    samples = recordings(font)
    assert samples[110] == samples[40]
    tested = set().union(*(samples[program] for program in phrases.OF_STEMS | phrases.OF_INSTRUMENTS))
    shared = {program for program, played in samples.items() if played & tested}
    assert shared == phrases.HELD_OUT


def test_no_voice_of_a_test_speaks():
    """Nor one that differs from it in a number, such as Gene and Gene2: those differ in an echo."""
    names = {re.sub(r"(?<=\w{3})\d+$", "", name.lower()) for name in speech.VARIANTS}
    for split in ("validation", "test"):
        assert not {voice.lower() for voice in sounds.VOICES[split]} & names
    assert {*sounds.VOICES["train"]} < {*speech.VARIANTS}


def test_every_language_has_words_in_its_script():
    for language, script in speech.SCRIPT_OF.items():
        vowels, consonants = speech.syllables(language)
        assert consonants
        assert all(vowels) or script in ("kana", "hangul", "hanzi", "ethiopic")
    assert ord(min(speech.syllables("ta")[1])) >= 0xB80
    texts = [speech.draw_text(np.random.default_rng(seed), "ru", 5) for seed in range(200)]
    assert len(set(texts)) == 200
    assert all(text[-1] in ".?!" and not text.startswith("-") for text in texts)


@pytest.mark.parametrize("family", textures.FAMILIES, ids=lambda family: family.__name__)
def test_a_texture_sounds(family):
    for seed in range(12):
        wave = family(np.random.default_rng(seed), 48000)
        assert wave.shape == (48000,)
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() > 1e-3


def test_a_clip_depends_on_its_seed_and_index_alone(font):
    """FluidSynth keeps state between notes: without the primer of a slot this fails."""
    kinds = {
        "phrases": lambda chosen: phrases.render(chosen, font),
        "speech": lambda chosen: speech.render(chosen, ["gmw/de", "inc/hi", "sit/cmn"]),
        "textures": textures.render,
        "hits": lambda chosen: phrases.render_hits(chosen, font),
        "words": lambda chosen: speech.render_words(chosen, ["gmw/de", "inc/hi", "sit/cmn"]),
    }
    for kind, make in kinds.items():
        whole, part = (list(render.render_block(0, kind, indices, make)) for indices in (range(8), range(5, 8)))
        assert whole[5:] == part
        assert len({content for content, *_ in whole}) == 8
        other = list(render.render_block(1, kind, range(2), make))
        assert other != whole[:2]


def test_labels_say_what_is_heard(font):
    """Wrong ones would be learned as well as right ones."""
    for sound, rng in zip(phrases.render(rngs("phrases", range(8)), font), rngs("phrases", range(8)), strict=True):
        for part in phrases.draw(rng):
            player, played = ("kit", "drum") if part.channel == phrases.DRUMS else ("program", "key")
            assert {f"{player} {part.program}", *(f"{played} {note.key}" for note in part.notes)} <= sound.labels
    assert speech.phonemes("gmw/en", "b") == {"b", "i", "b-", "-i"}
    assert speech.phonemes("gmw/en", "water") == {"w", "ɔ", "t", "ə", "w-", "-ə"}
    assert "en" not in speech.phonemes("sit/cmn", "water")  # said in English, which is in brackets
    assert speech.render(rngs("speech", range(1)), ["roa/es"])[0].labels == set()
    assert all(set(source.partition("/")[2].split("+")) == labels
               for _, source, labels in textures.render(rngs("textures", range(20))))  # fmt: skip


def test_where_espeak_crashes_another_sentence_is_drawn(font):
    """As version 1.51 does at numbers in Greenlandic: else the command ends there, again and again."""
    drawn = speech.render([np.random.default_rng(seed) for seed in range(4)], ["esx/kl"])
    assert all(len(wave) > 2 * 16000 for wave, *_ in drawn)


def test_a_language_that_says_nothing_is_given_up(font, monkeypatch):
    """Else one silent sentence of 8,000 ends the command, again and again."""
    monkeypatch.setattr(speech, "draw_word", lambda rng, language: "538")
    drawn = speech.render([np.random.default_rng(seed) for seed in range(4)], ["art/qya", "gmw/de"])
    assert all("gmw/de" in source for _, source, _ in drawn)
    with pytest.raises(AapeError, match="hardly a sound in '538"):
        speech.render([np.random.default_rng(0)], ["art/qya"])


def test_a_file_that_is_no_soundfont_is_one_line(font, tmp_path, capsys):
    """FluidSynth plays the distribution's soundfont instead, with programs that are a test's here."""
    (tmp_path / "font.sf2").write_bytes(font.read_bytes()[:100_000])
    command = [*options(tmp_path / "out", phrases=2), "--soundfont", str(tmp_path / "font.sf2")]
    assert render.main(command) == 2
    assert errors(capsys)[-1].startswith(f"render.py: error: {tmp_path}/font.sf2: silence instead of programs ")
    assert not (tmp_path / "out/clips.csv").exists()


def test_levels_and_lengths(font):
    found = list(render.render_block(0, "phrases", range(6), lambda chosen: phrases.render(chosen, font)))
    assert {seconds for _, seconds, *_ in found} == {4.0}
    found = list(render.render_block(0, "speech", range(6), lambda chosen: speech.render(chosen, ["roa/es", "ko"])))
    assert all(2 <= seconds <= 5 for _, seconds, *_ in found)
    found = list(render.render_block(0, "hits", range(30), lambda chosen: phrases.render_hits(chosen, font)))
    assert all(0.1 <= seconds <= 1.5 for _, seconds, *_ in found)
    found = list(render.render_block(0, "words", range(6), lambda chosen: speech.render_words(chosen, ["roa/es"])))
    assert all(0.1 <= seconds <= 2 for _, seconds, *_ in found)
    for (wave, *_), rng in zip(textures.render(rngs("textures", range(40))), rngs("textures", range(40)), strict=True):
        assert 3 * 16000 <= len(wave) <= 4 * 16000
        assert np.abs(sounds.quantised(wave, rng.uniform(*render.PEAK))).max() < 32767


def test_a_hit_begins_at_once_and_ends_softly():
    """Silence before it would be part of every repetition, and a cut would click."""
    decaying = np.exp(-np.arange(60000) / 9000) * np.sin(np.arange(60000))
    wave = phrases._trimmed(np.concatenate([np.zeros(700), decaying]))
    assert abs(wave[0]) > 0
    assert len(wave) == 24000
    assert abs(wave[-1]) < 1e-9
    assert len(phrases._trimmed(np.concatenate([np.zeros(700), decaying[:400], np.zeros(5000)]))) == 1600


@pytest.fixture
def folder(tmp_path):
    """A folder of textures, which need no engine."""
    assert render.main(options(tmp_path / "out", textures=20)) == 0
    return tmp_path / "out"


def options(out, **clips):
    counts = {kind: clips.get(kind, 0) for kind in render.CLIPS}
    return ["--out", str(out), *(part for kind, count in counts.items() for part in (f"--{kind}", str(count)))]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".csv")}


def test_aape_reads_the_folder(font, tmp_path):
    assert render.main(options(tmp_path, phrases=3, speech=3, textures=6, hits=2, words=2)) == 0
    clips, rows = read_manifest(tmp_path / "clips.csv"), rows_of(tmp_path / "clips.csv")
    assert len(clips) == 16
    for clip, row in zip(clips, rows, strict=True):
        wave = load_clip(clip)
        assert len(wave) / 16000 == pytest.approx(float(row["seconds"]), abs=1e-3)
        assert -30.1 < 20 * np.log10(np.abs(wave).max()) < -0.9
    kinds = {row["name"].split("-")[0]: row["labels"] for row in rows}
    assert {kind for kind, labels in kinds.items() if labels} == {"phrases", "textures", "hits", "words"}
    assert {row["source"].split("/")[0] for row in rows} == {"FluidR3_GM", "espeak-ng", "texture"}
    assert set(json.loads((tmp_path / "engines.json").read_text())) == {"seed", "fluidsynth", "espeak-ng", "FluidR3_GM"}
    assert len(read_manifest(tmp_path)) == 16  # the folder too: its tables are no sound


def test_a_stop_changes_nothing(folder, monkeypatch):
    """A shard without its table, and one that was never begun, are rendered; the others are not touched."""
    before, times = contents(folder), {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "textures-001.tar").unlink()
    (folder / "textures-002.csv").unlink()
    (folder / "clips.csv").unlink()
    (folder / ".textures-001.tar.x.aape-partial").write_bytes(b"half")
    assert render.main(options(folder, textures=20)) == 0
    assert contents(folder) == before
    assert not list(folder.glob(".*partial"))
    assert (folder / "textures-000.tar").stat().st_mtime_ns == times[folder / "textures-000.tar"]


def test_fewer_clips_are_the_first_ones_of_more(folder, tmp_path):
    assert render.main(options(tmp_path / "grown", textures=11)) == 0
    few = rows_of(tmp_path / "grown/clips.csv")
    assert few == rows_of(folder / "clips.csv")[:11]
    assert render.main(options(tmp_path / "grown", textures=20)) == 0
    assert contents(tmp_path / "grown") == contents(folder)
    assert render.main(options(folder, textures=11)) == 0
    assert rows_of(folder / "clips.csv") == few
    assert len(read_manifest(folder / "clips.csv")) == 11


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("render.py: ")]


def test_a_folder_is_of_one_seed(folder, capsys):
    assert render.main([*options(folder, textures=20), "--seed", "1"]) == 2
    (line,) = errors(capsys)
    assert line == f"render.py: error: {folder} has clips of seed 0, not 1: choose another --out"


@pytest.mark.parametrize("kind", ["phrases", "speech", "hits", "words"])
def test_a_missing_engine_is_one_line(tmp_path, capsys, monkeypatch, kind, request):
    if kind in ("phrases", "hits"):
        request.getfixturevalue("font")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert render.main(options(tmp_path / "out", **{kind: 4})) == 2
    (line,) = errors(capsys)
    assert re.match(r"render.py: error: (espeak-ng|fluidsynth) is missing: apt install fluidsynth", line)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_pre_training_reads_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(folder / "clips.csv"), "--device", "cpu"]
    assert cli.main(["pretrain", *data, "--model=nano", "--steps=1", "--clips=2", "--workers=0", "--out=nano"]) == 0
