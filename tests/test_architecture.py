"""Which module may import which, what `import aape` costs, how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from aape.cli import VERBS

SOURCE = Path(__file__).parent.parent / "src" / "aape"
# The code in a saved model is for other tools, and no module of this package.
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "pretrained" not in path.parts)

# A module may import its own layer and those below, and never in a circle. A new folder is added here.
LAYERS = (
    {"errors"},
    {"ops", "data"},
    {"layers", "runs"},
    {"models", "pages"},
    {"pretraining", "inference", "huggingface"},
    {"downstream", "adapters"},
    {"analysis"},
    {"explorer"},
    {"commands"},
    {"cli", "__init__"},
    {"__main__"},
)
# The lower layers take plain arguments, and each is usable by itself.
ONLY = {
    "errors": set(),
    "ops": {"errors"},
    "data": {"errors"},
    "layers": {"ops", "errors"},
}
HEAVY = ("torch", "transformers", "matplotlib", "soundfile", "soxr", "rich", "scipy", "triton",
         "torchmetrics", "sklearn", "onnx", "onnxruntime")  # fmt: skip


def part_of(path: Path) -> str:
    """Return the top-level module or subpackage that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_parts(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "aape":
                names += [f"aape.{alias.name}" for alias in node.names]
            else:
                names.append(node.module or "")
    known = set().union(*LAYERS)
    names.remove("aape.__version__") if "aape.__version__" in names else None  # a constant, not a module
    parts = {name.split(".")[1] if "." in name else "__init__" for name in names if name.split(".")[0] == "aape"}
    # `from aape import load_model` is the public surface, not a module of that name.
    return {part if part in known else "__init__" for part in parts} - {part_of(path)}


def graph() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        edges.setdefault(part_of(path), set()).update(imported_parts(path))
    return edges


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_downwards(path):
    """A stem or a reader that drags in the training code could not be used by itself."""
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    part = part_of(path)
    assert part in level, f"{part} is missing from LAYERS"
    for imported in imported_parts(path):
        assert level[imported] <= level[part], f"{part} may not import {imported}"
        assert imported in ONLY.get(part, {imported}), f"{part} may import {ONLY.get(part)} only, not {imported}"


def test_no_import_circles():
    """In a circle, what works depends on which module the user imports first."""
    edges = graph()
    done: set[str] = set()

    def visit(part: str, path: tuple[str, ...]) -> None:
        assert part not in path, " -> ".join((*path, part))
        if part not in done:
            for imported in edges.get(part, ()):
                visit(imported, (*path, part))
            done.add(part)

    for part in edges:
        visit(part, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_files_are_short_enough_to_read(path):
    """Nobody reviews a file of thousands of lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def loaded_by(statement: str) -> set[str]:
    """Return which heavy packages a statement loads in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_package_is_light():
    """A program that only wants the stem must not wait for, or need, transformers, matplotlib or audio libraries."""
    assert loaded_by("import aape") == set()


@pytest.mark.parametrize("words", ["", *VERBS], ids=lambda words: words or "aape")
def test_help_is_light(words):
    """`aape --help` that takes seconds teaches people not to ask."""
    quiet = "import contextlib, io, aape.cli\nwith contextlib.redirect_stdout(io.StringIO()): "
    assert loaded_by(f"{quiet}aape.cli.main({[*words.split(), '--help']})\n") == set()
