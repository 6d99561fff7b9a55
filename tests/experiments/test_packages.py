"""Sounds of Debian's packages: only sounds are unpacked, and a label is a word that several packages use."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from aape.data.manifest import read_manifest
from aape.errors import AapeError

SCRIPT = Path(__file__).resolve().parents[2] / "experiments/small_data/packages.py"
spec = importlib.util.spec_from_file_location("packages", SCRIPT)
packages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(packages)


@pytest.fixture
def archive(tmp_path):
    """A package with two sounds, a script, a link and its licences."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb")
    root = tmp_path / "game"
    for folder in ("DEBIAN", "usr/share/game/sounds", "usr/share/doc/game"):
        (root / folder).mkdir(parents=True)
    control = "Package: game\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a game\n"
    (root / "DEBIAN/control").write_text(control)
    for name in ("door.WAV", "SmallDoor.flac"):
        soundfile.write(root / "usr/share/game/sounds" / name, [0.1] * 800, 16000)
    (root / "usr/share/game/run.sh").write_text("exit 1")
    (root / "usr/share/game/sounds/link.wav").symlink_to("/etc/passwd")
    (root / "usr/share/doc/game/copyright").write_text("GPL-2+")
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", root, tmp_path / "game.deb"], check=True, capture_output=True
    )
    return tmp_path / "game.deb"


def test_sounds_and_licences_are_unpacked_and_nothing_else(archive, tmp_path):
    packages.unpack(archive, tmp_path / "out")
    found = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if not path.is_dir()
    )
    sounds = "usr/share/game/sounds"
    assert found == ["copyright", f"{sounds}/SmallDoor.flac", f"{sounds}/door.WAV"]
    assert len(soundfile.read(tmp_path / "out" / sounds / "door.WAV")[0]) == 800


def test_a_damaged_package_is_an_error(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(AapeError, match="damaged"):
        packages.unpack(archive, tmp_path / "out")


def test_a_label_is_a_word_of_several_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "FEWEST", 2)
    for name in ("a/BigDoor2.wav", "b/big_door.ogg", "b/x.ogg", "b/x2_alarm.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, [0.1] * 800, 16000)
    rows = packages.labelled(tmp_path, ["a", "b"])
    assert rows[0] == ("a/BigDoor2.wav", "big;door", "a")
    assert rows[1:] == [("b/big_door.ogg", "big;door", "b"), ("b/x.ogg", "", "b"), ("b/x2_alarm.ogg", "", "b")]
    packages.write_csv(tmp_path / "clips.csv", [("filename", "labels", "source"), *rows])
    clips = read_manifest(tmp_path / "clips.csv", label="labels", needs_labels=False)
    assert [clip.label for clip in clips] == ["big;door", "big;door", "", ""]


def test_without_debian_one_line_says_so(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "packages.py: error: apt-get is not there: this needs Debian or Ubuntu"
    assert not list(tmp_path.glob("abe-data*"))


def test_a_stop_is_one_line_and_half_a_package_is_none(archive, tmp_path, monkeypatch):
    """211 downloads take long: what was stopped or killed goes on with the package it was at."""
    name, out = packages.PACKAGES.read_text().split()[0], tmp_path / "out"
    programs, begun = tmp_path / "bin", tmp_path / "begun"
    programs.mkdir()
    (programs / "apt-get").write_text(f"#!/bin/sh\ncp {archive} .\ntouch {begun}\nexec sleep 20\n")
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for number in (signal.SIGKILL, signal.SIGINT):
        begun.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, SCRIPT, "--out", out], stderr=subprocess.PIPE, text=True) as process:
            while not begun.exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(number)
            lines = process.communicate()[1].splitlines()
    assert process.returncode == 128 + signal.SIGINT
    assert lines[-1] == "packages.py: stopped by SIGINT: the same command goes on"
    assert not (out / name).exists()
    (programs / "apt-get").write_text(f"#!/bin/sh\ncp {archive} .\n")
    packages.fetch(name, out)
    assert (out / name / "version").read_text().strip() == "1"
    assert not (out / ".fetching").exists()
