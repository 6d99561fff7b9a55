"""Compile SBLU's C form while the package is built. Where there is no compiler, the package goes without."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/aape/ops/sblu.c")
LIBRARY = SOURCE.with_name("_sblu.so")  # loaded by ctypes, which asks for no other name
# No -ffast-math: it would switch the whole process to flushing subnormal numbers.
FLAGS = "-std=gnu11 -O3 -fno-math-errno -fno-trapping-math -Wno-psabi -fPIC -shared"


class CompiledOperator(BuildHookInterface):
    """Adds the compiled library to the wheel, which then is one of this platform, whatever its Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, or say in one line why the slower form will do the work."""
        library = Path(self.root) / LIBRARY
        reason = compile_library(Path(self.root) / SOURCE, library)
        if reason is not None:
            self.app.display_warning(f"aape: SBLU stays in plain PyTorch, which is slower: {reason}")
            return
        build_data["artifacts"].append(f"/{LIBRARY.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compile_library(source: Path, library: Path) -> str | None:
    """Compile `source` into `library` with $CC or cc. Returns why that was not possible, or None."""
    library.unlink(missing_ok=True)
    if sys.platform == "win32":
        return "the source needs GCC or Clang"
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS.split(), str(source), "-o", str(library), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return None if done.returncode == 0 else f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
