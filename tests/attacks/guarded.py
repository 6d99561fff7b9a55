"""Load what a stranger sent, with every way out of the process watched by an audit hook.

`python tests/attacks/guarded.py FOLDER` writes hostile models, checkpoints, recipes and shards into a folder, loads
each through the package's own functions, and prints what was said and what the hook saw. Nothing hostile gets through
the hook either: it refuses what it reports.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pcm_files import wav

import aape
import aape.huggingface
from aape import cli
from aape.commands.options import recipe_values
from aape.commands.pretrain import PretrainConfig
from aape.commands.recipe import find_recipe
from aape.data.clips import load_clip
from aape.data.manifest import read_manifest
from aape.downstream.features import read_features
from aape.errors import AapeError
from aape.models.saved import find_model
from aape.models.stats import front_end_from_stats
from aape.runs.checkpoints import MANIFEST_NAME, publish

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn",
             "socket.connect", "ctypes.dlopen", "pickle.find_class", "os.symlink", "os.link")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

CHECKPOINT_FILES = {  # and what is said about each
    "state.safetensors": "damaged, or of another model",
    "rank-0.safetensors": "damaged, or of another model",
    "state.json": "damaged, or of another model",
    "optimizer.pt": "written by another version of aape",
    "config.yaml": "holds a run of another kind, or of another version of aape",
}

Attack = Callable[[], object]


class Guard:
    """An audit hook that refuses what data must never do; it sees C code too and cannot be taken off again."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and self._is_forbidden(event, arguments):
            self.is_on = False  # while it is written down
            self.seen.append(f"{event} {arguments!r}"[:200])
            self.is_on = True
            raise RuntimeError(f"the guard refuses {event}")

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "import":
            return arguments[0].split(".")[0] in ("payload", "posix", "nt", "antigravity")
        if event in ("exec", "compile"):
            name = getattr(arguments[0], "co_filename", arguments[1] if event == "compile" else "")
            return "payload" in str(name) or self.folder in str(name)
        if event == "subprocess.Popen":  # a run asks git for its commit
            return list(arguments[1][:1]) != ["git"]
        if event == "open":
            path, mode, flags = arguments
            is_written = any(letter in (mode or "") for letter in "wax+") or bool(flags & WRITING)
            is_named = isinstance(path, (str, bytes))
            return is_written and is_named and not os.path.realpath(os.fsdecode(path)).startswith(self.folder)
        return event in FORBIDDEN

    def run(self, attack: Attack) -> dict[str, Any]:
        """Run an attack; returns the class and the text of what it raised, and what the hook saw."""
        self.seen = []
        self.is_on = True
        try:
            attack()
            kind, text = "", ""
        except BaseException as error:
            kind = "AapeError" if isinstance(error, AapeError) else type(error).__name__
            text = str(error)
        finally:
            self.is_on = False
        return {"kind": kind, "text": text, "seen": self.seen}


class Bomb:
    """Pickles to a call of `os.system`; its canary is the proof that it ran."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def write_shard(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write a tar: name, type and link target of each member; plain files hold sound."""
    with tarfile.open(path, "w") as shard:
        for name, kind, target in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            content = wav() if kind == tarfile.REGTYPE else b""
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return path


def make_attacks(folder: Path) -> dict[str, Attack]:
    """Write everything hostile below a folder; returns how each is loaded, by name."""
    canary = folder.parent / "canary"
    poison = pickle.dumps(Bomb(canary))
    archive = io.BytesIO()
    torch.save({"encoder.norm.weight": Bomb(canary)}, archive)
    attacks: dict[str, Attack] = {}

    def add_model(name: str, change: Callable[[Path], object]) -> None:
        path = folder / name.replace(" ", "-")
        shutil.copytree(find_model("tiny"), path, ignore=shutil.ignore_patterns("*.md"))
        change(path)
        attacks[name] = lambda: aape.load_model(path, "cpu")

    def set_weights(content: bytes, length: int = 0) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            with (path / "model.safetensors").open("wb") as file:
                file.write(content)
                file.truncate(max(length, len(content)))  # the rest takes no room on the disk

        return change

    def set_config(**values: Any) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            config = json.loads((path / "config.json").read_text())
            for key, value in values.items():
                section, _, field = key.partition("__")
                if field:
                    config[section][field] = value
                else:
                    config[key] = value
            (path / "config.json").write_text(json.dumps(config))

        return change

    def only_pickles(path: Path) -> None:
        (path / "model.safetensors").unlink()
        for name in ("pytorch_model.bin", "model.pt", "model.pth", "training_args.bin"):
            (path / name).write_bytes(archive.getvalue())

    def own_code(path: Path) -> None:
        (path / "payload.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: pass\n")
        set_config(auto_map={"AutoModel": "payload.Model", "AutoConfig": "payload.Model"})(path)

    # Headers: eight bytes of length, and JSON
    many = json.dumps(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    ).encode()
    beyond = b'{"encoder.norm.weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    named = b'{"two\\nlines":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}'
    add_model("pickles only", only_pickles)
    add_model("pickle as weights", set_weights(poison))
    add_model("torch archive as weights", set_weights(archive.getvalue()))
    add_model("header of 2^62 bytes", set_weights(struct.pack("<Q", 1 << 62)))
    add_model("header of 96 MB", set_weights(struct.pack("<Q", 96 << 20) + b"{", length=97 << 20))
    add_model("header of 300000 tensors", set_weights(struct.pack("<Q", len(many)) + many))
    add_model("header beyond the file", set_weights(struct.pack("<Q", len(beyond)) + beyond))
    add_model("name of two lines", set_weights(struct.pack("<Q", len(named)) + named + b"\0"))
    add_model("its own code", own_code)
    add_model("transform of a billion", set_config(front_end__n_fft=1 << 30))
    add_model("filter bank of 1 GiB", set_config(front_end__n_fft=1 << 16, front_end__n_mels=1 << 13,
                                                  encoder__n_mels=1 << 13))  # fmt: skip
    add_model("rate of a billion", set_config(front_end__sample_rate=1 << 30, front_end__f_max=8000.0))
    add_model("kernel of a billion", set_config(encoder__kernel_size=(1 << 30) + 1))
    add_model("grid of a billion", set_config(encoder__num_frames=1 << 40))
    add_model("megabytes as a value", set_config(encoder__stem="x" * (4 << 20)))
    add_model("config as a folder", lambda path: ((path / "config.json").unlink(), (path / "config.json").mkdir()))
    if hasattr(os, "mkfifo"):
        add_model("config as a pipe", lambda path: ((path / "config.json").unlink(), os.mkfifo(path / "config.json")))
    for name in ("pickles-only", "pickle-as-weights", "its-own-code"):
        attacks[f"transformers: {name}"] = lambda name=name: _load_with_transformers(folder / name)

    laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for letter, before in zip("bcdefghij", "abcdefghi", strict=True):
        laughs += f"{letter}: &{letter} [{', '.join([f'*{before}'] * 10)}]\n"
    recipes = {
        "call": f"steps: !!python/object/apply:os.system ['touch {canary}']\n",
        "new object": "steps: !!python/object/new:subprocess.Popen [['touch', 'x']]\n",
        "module": "data: !!python/module:payload\n",
        "name": "data: !!python/name:os.system\n",
        "unknown tag": "data: !payload x\n",
        "tag in a key": "!!python/name:os.system x: 1\n",
        "billion laughs": laughs,
        "holds itself": "data: &a [*a]\n",
        "deep": "data: " + "[" * 20000 + "]" * 20000 + "\n",
        "deep mapping": "data: " + "{a: " * 5000 + "}" * 5000 + "\n",
        "number of 5000 digits": "steps: " + "9" * 5000 + "\n",
        "list as a key": "? [a, b]\n: 1\n",
        "two megabytes": "# " + "x" * (2 << 20) + "\n",
        "many keys": "".join(f"k{number}: 1\n" for number in range(20000)),
        "not text": "\0\1\2",
        "base is itself": "base: base-is-itself.yaml\n",
    }
    for name, text in recipes.items():
        recipe = folder / f"{name.replace(' ', '-')}.yaml"
        recipe.write_text(text)
        attacks[f"recipe: {name}"] = lambda recipe=recipe: recipe_values(find_recipe(str(recipe)), PretrainConfig)

    plain = tarfile.REGTYPE
    shards = {
        "parent": [("../../escaped.wav", plain, "")],
        "absolute": [("/tmp/aape-escaped.wav", plain, "")],
        "hidden parent": [("a/../../escaped.wav", plain, "")],
        "symbolic link": [("a.wav", tarfile.SYMTYPE, "/etc/passwd")],
        "hard link": [("a.wav", tarfile.LNKTYPE, "/etc/passwd")],
        "pipe": [("a.wav", tarfile.FIFOTYPE, "")],
        "device": [("a.wav", tarfile.CHRTYPE, "")],
        "linked folder": [("d", tarfile.SYMTYPE, "/etc"), ("d/../passwd.wav", plain, "")],
    }
    for name, members in shards.items():
        shard = write_shard(folder / f"{name.replace(' ', '-')}.tar", *members)
        attacks[f"shard: {name}"] = lambda shard=shard: read_manifest(shard)
    squeezed = folder / "squeezed.tar"
    squeezed.write_bytes(gzip.compress(bytes(200 << 20), 1, mtime=0))
    attacks["shard: compressed bomb"] = lambda: read_manifest(squeezed)
    sparse = folder / "sparse.tar"
    entry = tarfile.TarInfo("a.wav")
    entry.size = 2 << 30
    with sparse.open("wb") as file:
        file.write(entry.tobuf())
        file.truncate(512 + entry.size + 1024)
    attacks["shard: member of 2 GB"] = lambda: load_clip(read_manifest(sparse)[0])

    cache = folder / "features.npz"
    with zipfile.ZipFile(cache, "w") as packed:
        packed.writestr("fingerprint.npy", _object_array(poison))
    attacks["features: pickle"] = lambda: _expect_nothing(read_features(cache, "x"))
    stats = folder / "stats.json"
    stats.write_bytes(poison)
    attacks["statistics: pickle"] = lambda: front_end_from_stats(stats)
    return attacks


def _object_array(poison: bytes) -> bytes:
    """Return an NPY file of Python objects whose pickle is `poison`."""
    content = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + poison


def _expect_nothing(value: object) -> None:
    if value is not None:
        raise AssertionError(value)


def _load_with_transformers(path: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(path)


def resume_attacks(folder: Path) -> dict[str, Attack]:
    """Make a small run, and copies of it whose checkpoint or configuration is hostile; returns how to resume each."""
    canary = folder.parent / "canary"
    sound = folder / "sound"
    sound.mkdir()
    for note in sorted((Path(aape.__file__).parent / "data" / "demo").glob("*.opus"))[:4]:
        shutil.copy(note, sound)
    short = ["--model", "nano", "--steps", "2", "--clips", "2", "--workers", "0", "--save-every", "1",
             "--log-every", "1", "--crop-seconds", "1", "--masking.num-views", "2", "--device", "cpu"]  # fmt: skip

    def options(out: Path) -> list[str]:
        return ["pretrain", "--data", str(sound), "--out", str(out), *short]

    assert cli.main(options(folder / "run")) == 0
    attacks: dict[str, Attack] = {}
    for name in CHECKPOINT_FILES:
        out = folder / f"run-{name}"
        shutil.copytree(folder / "run", out)
        shutil.rmtree(out / "checkpoint-2")
        (out / "config.yaml").write_text((folder / "run" / "config.yaml").read_text())
        if name == "config.yaml":
            with (out / name).open("a") as file:
                file.write(f"evil: !!python/object/apply:os.system ['touch {canary}']\n")
        else:
            (out / "checkpoint-1" / name).write_bytes(pickle.dumps(Bomb(canary)))
            shutil.copytree(out / "checkpoint-1", out / "hostile", ignore=shutil.ignore_patterns(MANIFEST_NAME))
            publish(out / "hostile", out / "checkpoint-1")  # a manifest that agrees
        command = [*options(out), "--resume", "--debug"]  # with it errors come out as they are
        attacks[f"resume: {name}"] = lambda command=command: cli.main(command)
    return attacks


def main() -> None:
    """Run every attack and print the outcome as JSON."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1]) / "inside"
    folder.mkdir()
    sys.path.insert(0, str(folder / "its-own-code"))  # the worst case: where a payload could be imported from
    aape.load_model("tiny", "cpu").embed(np.zeros(16000, np.float32), 16000)  # what is imported late is there now
    _load_with_transformers(find_model("tiny"))
    attacks = make_attacks(folder) | (resume_attacks(folder) if "--resume" in sys.argv else {})
    guard = Guard(folder)
    outcomes = {name: guard.run(attack) for name, attack in attacks.items()}
    bait = {  # the hook does see these; otherwise all of the above would prove nothing
        "unpickling": guard.run(lambda: pickle.loads(pickle.dumps(Bomb(folder.parent / "canary")))),
        "system": guard.run(lambda: os.system("true")),
        "writing": guard.run(lambda: open(folder.parent / "outside", "w")),  # noqa: SIM115
        "yaml": guard.run(lambda: yaml.unsafe_load("!!python/object/apply:os.system ['true']")),
        "importing": guard.run(lambda: __import__("payload")),
    }
    print(json.dumps({"attacks": outcomes, "bait": bait, "left": sorted(os.listdir(folder.parent))}))


if __name__ == "__main__":
    main()
