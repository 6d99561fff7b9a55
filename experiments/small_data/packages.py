"""Fetch sound effects, voices and music from packages of Debian, labelled by the words of file names.

    python experiments/small_data/packages.py --out data/packages
    aape data pack --data data/packages/clips.csv --label labels --max-bad-fraction 0.05 --out data/packed

The packages are listed in packages.txt; Debian or Ubuntu is needed, not root. OUT has

    PACKAGE/        the package's sound files, and `copyright`, its licences
    clips.csv       every sound: filename, labels, source
    versions.json   of the packages

A label is a word that is in file names of several packages: "door", "explosion". The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from aape.downstream.scores import write_csv
from aape.errors import AapeError, one_line
from aape.runs.files import write_json
from aape.runs.lock import locked
from aape.runs.signals import Stopped, ended_by_signals

SUFFIXES = {".ogg", ".oga", ".opus", ".wav", ".flac", ".mp3", ".au", ".aif", ".aiff"}
FEWEST = 5  # packages in whose file names a label occurs
PACKAGES = Path(__file__).with_name("packages.txt")
LEFT_OUT = Path(__file__).with_name("packages_left_out.txt")  # sounds that the test sets in README.md hold too


def call(*arguments: str, folder: Path) -> str:
    """Run a program in a folder; returns what it prints.

    Raises:
        AapeError: it is not there, or failed.
    """
    try:
        return subprocess.run(arguments, cwd=folder, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise AapeError(f"{arguments[0]} is not there: this needs Debian or Ubuntu") from error
    except subprocess.CalledProcessError as error:
        raise AapeError(f"{' '.join(arguments)} failed: {error.stderr}") from error


def fetch(package: str, out: Path) -> None:
    """Put the sound files of a package into a folder, which appears when it is whole."""
    folder = out / ".fetching"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    call("apt-get", "download", package, folder=folder)
    archive = next(folder.glob("*.deb"))
    unpack(archive, folder / package)
    (folder / package / "version").write_text(call("dpkg-deb", "-f", str(archive), "Version", folder=folder))
    (folder / package).rename(out / package)
    shutil.rmtree(folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the sound files and the licences of a package, nothing else of it.

    Raises:
        AapeError: it is damaged.
    """
    folder.mkdir()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as files:
                for member in files:
                    path = PurePosixPath(member.name)
                    if not member.isfile() or ".." in path.parts:
                        continue
                    if path.suffix.lower() in SUFFIXES:
                        place = folder / path.relative_to(".")
                    elif path.name == "copyright":
                        place = folder / path.name
                    else:
                        continue
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with files.extractfile(member) as source, place.open("wb") as target:  # type: ignore[union-attr]
                        shutil.copyfileobj(source, target)
        except tarfile.TarError as error:
            raise AapeError(f"{archive.name} is damaged: {error}") from error
    if process.returncode:
        raise AapeError(f"{archive.name} is damaged")


def words(path: Path) -> set[str]:
    """Return the words of a file's name: letters, three or more, in lower case; `ShotGun2` has two."""
    return set(re.findall("[a-z]{3,}", re.sub("([a-z])([A-Z])", r"\1 \2", path.stem).lower()))


def labelled(out: Path, packages: Sequence[str]) -> list[tuple[str, str, str]]:
    """List all sounds that no test is of: file, labels and package."""
    left_out = set(LEFT_OUT.read_text(encoding="utf-8").splitlines())
    sounds = {
        package: sorted(path for path in (out / package).rglob("*") if path.suffix.lower() in SUFFIXES)
        for package in packages
    }
    counts = Counter(word for paths in sounds.values() for word in set().union(*map(words, paths)))
    rows = []
    for package, paths in sounds.items():
        for path in paths:
            name = str(path.relative_to(out))
            if name not in left_out:
                rows.append((name, ";".join(sorted(word for word in words(path) if counts[word] >= FEWEST)), package))
    return rows


def main() -> None:
    """Fetch and list, or say in one line what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/packages"), help="default: data/packages")
    options = parser.parse_args()
    packages = PACKAGES.read_text(encoding="utf-8").split()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with ended_by_signals(), locked(options.out):
            for number, package in enumerate(packages, 1):
                if not (options.out / package).exists():
                    print(f"{number}/{len(packages)} {package}", file=sys.stderr)
                    fetch(package, options.out)
            rows = labelled(options.out, packages)
            write_csv(options.out / "clips.csv", [("filename", "labels", "source"), *rows])
            versions = {name: (options.out / name / "version").read_text(encoding="utf-8").strip() for name in packages}
            write_json(options.out / "versions.json", versions)
    except (AapeError, OSError) as error:
        sys.exit(f"packages.py: error: {one_line(str(error))}")
    except Stopped as stop:
        print(f"packages.py: stopped by {stop.name}: the same command goes on", file=sys.stderr)
        raise
    print(f"{len(rows)} sounds of {len(packages)} packages -> {options.out}")


if __name__ == "__main__":
    main()
