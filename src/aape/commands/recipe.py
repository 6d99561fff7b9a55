"""Recipes: strict YAML files of options, found by name in the package or by their path.

A recipe maps a verb's options, nested (`optim: {learning_rate: 1e-3}`) or dotted (`optim.learning_rate: 1e-3`).
`base:` starts from another recipe, and `verb:` says which verb it is for. A folder with a `grid.yaml` holds a recipe
for each encoder and for each encoder on a task, all written in that one file.
"""

from __future__ import annotations

import difflib
import functools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aape.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
GRID_NAME = "grid.yaml"

_MAX_BYTES = 1 << 16
_NUM_SHOWN = 5  # names in an error message
_GRID_KEYS = ("out", "pretrain", "finetune", "probe", "encoders", "tasks", "columns", "tables", "pretraining_clips")


@dataclass(frozen=True)
class Recipe:
    """A recipe whose keys have not yet been compared with the options of its verb."""

    name: str  # its name, or its path
    verb: str | None  # that it is for; None where it does not say
    about: str  # what it is, in one line
    parts: tuple[tuple[str, Mapping[str, Any]], ...]  # where each is written, and its settings; later ones override

    @property
    def out(self) -> str:
        """Folder of its run, "" where it does not say."""
        return str(next((part["out"] for _, part in reversed(self.parts) if "out" in part), ""))

    def settings(self, options: Collection[str]) -> dict[str, Any]:
        """Return text, or lists of text, by dotted key of `options`: not yet checked against the option's type.

        Raises:
            ConfigError: a key is given twice, or does not exist; the nearest one is shown.
        """
        return functools.reduce(lambda flat, part: flat | _flatten(part[1], options, part[0]), self.parts, {})


@dataclass(frozen=True)
class Grid:
    """A `grid.yaml`."""

    path: Path
    recipes: Mapping[str, Recipe]  # by name, every encoder's followed by those that start from it
    content: Mapping[str, Any]  # of the file, for its tables


def find_recipe(name: str, verb: str = "") -> Recipe:
    """Find a recipe: a file, one of the package by its name, or NAME in a FOLDER with a grid, as FOLDER/NAME.

    What is in the current folder comes first. It has to be for `verb`, where one is given.

    Raises:
        ConfigError: there is none, it is for another verb, is not plain YAML, or is based on itself.
    """
    recipe = _find(name, Path(), (), verb)
    if verb and recipe.verb not in (None, verb):
        raise ConfigError(f"{name} is a recipe for `aape {recipe.verb}`, not for `aape {verb}`; {_nearest(name, verb)}")
    return recipe


@functools.cache
def shipped_recipes() -> dict[str, Recipe]:
    """Return the recipes of the package by name."""
    recipes: dict[str, Recipe] = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        folder = path.parent.relative_to(RECIPES)
        if path.name == GRID_NAME:
            recipes |= {(folder / name).as_posix(): recipe for name, recipe in read_grid(path.parent).recipes.items()}
        else:
            recipes[(folder / path.stem).as_posix()] = _read_file(path, ())
    return recipes


def find_grid(name: str) -> Grid:
    """Find a grid: a `grid.yaml`, a folder that holds one, or one of the package by its name.

    Raises:
        ConfigError: there is none, or it is none.
    """
    path = Path(name)
    for folder in (path.parent if path.name == GRID_NAME else path, RECIPES / name):
        if (folder / GRID_NAME).exists():
            return read_grid(folder)
    known = ", ".join(path.parent.relative_to(RECIPES).as_posix() for path in RECIPES.rglob(GRID_NAME))
    raise ConfigError(f"no grid of recipes {name!r}: name a folder that holds a {GRID_NAME}, or one of {known}")


def read_grid(folder: Path) -> Grid:
    """Read the `grid.yaml` of a folder.

    Raises:
        ConfigError: it is not plain YAML, or not a grid.
    """
    path = folder / GRID_NAME
    content, _ = _read_mapping(path)
    for key in content:
        if key not in _GRID_KEYS:
            raise ConfigError.unknown_key(key, _GRID_KEYS, str(path))
    name_of = folder.relative_to(RECIPES) if folder.is_relative_to(RECIPES) else folder
    recipes: dict[str, Recipe] = {}

    def add(name: str, settings: Mapping[str, Any], **links: str) -> str:
        verb, about = settings["verb"], settings["about"]
        options = {key: value for key, value in settings.items() if key not in ("about", "verb", "encoders")}
        out = content["out"].replace("{verb}", verb).replace("{name}", name)
        shared = (f"{path}, {verb}", content.get(verb, {}))
        parts = (shared, (f"{path}, {name}", options), (str(path), {**links, "out": out}))
        recipes[name] = Recipe((name_of / name).as_posix(), verb, about, parts)
        return out

    try:
        encoders, tasks = content.get("encoders", {}), content.get("tasks", {})
        if unknown := {name for its in tasks.values() for name in its.get("encoders", ())} - encoders.keys():
            raise ConfigError.unknown_key(min(unknown), encoders, f"{path}, tasks")
        for encoder, settings in encoders.items():
            checkpoint = add(encoder, {**settings, "verb": "pretrain"})
            for task, its in tasks.items():
                if encoder in its.get("encoders", encoders):
                    about = f"{settings['about']}; on {its['about']}"
                    add(f"{encoder}-{task}", {**its, "about": about}, checkpoint=checkpoint)
        for task, its in tasks.items() if not encoders else ():
            add(task, its)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a grid of recipes ({error!r})") from error
    return Grid(path, recipes, content)


def read_yaml(text: str, where: str) -> Any:
    """Read plain YAML as mappings and lists of text.

    Raises:
        ConfigError: it has tags, aliases or a key twice, or is not YAML; the line is named.
    """
    try:
        return yaml.load(text, Loader=_TextLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}: {line}{getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not plain YAML ({error})") from error


def _find(name: str, folder: Path, children: tuple[Path, ...], verb: str = "") -> Recipe:
    """Find a recipe as `find_recipe` does, paths taken from `folder`; `children` are based on it."""
    path = folder / name
    if path.exists() and not path.is_dir():
        return _read_file(path, children)
    if (path.parent / GRID_NAME).exists() and path.name in (grid := read_grid(path.parent)).recipes:
        return grid.recipes[path.name]
    if name in shipped_recipes():
        return shipped_recipes()[name]
    of = f" (the base of {children[-1]})" if children else ""
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"cannot read the recipe {path}{of}: No such file; by name, {_nearest(name, verb)}")
    raise ConfigError(f"no recipe {name!r}{of}, as a name or a path: {_nearest(name, verb)}")


def _nearest(name: str, verb: str) -> str:
    """Say which recipes there are, the nearest first."""
    names = [known for known, recipe in shipped_recipes().items() if verb in ("", recipe.verb)]
    if not names:
        return f"`aape {verb}` has no recipes"
    nearest = difflib.get_close_matches(name.removesuffix(".yaml"), names, _NUM_SHOWN, cutoff=0.0)
    return f"the nearest are {', '.join(nearest)}; `aape recipes` lists all"


def _read_file(path: Path, children: tuple[Path, ...]) -> Recipe:
    if path.resolve() in children:
        raise ConfigError(f"{path}: is based on itself")
    document, about = _read_mapping(path, children[-1] if children else None)
    base, verb = document.pop("base", None), document.pop("verb", None)
    for key, value in (("base", base), ("verb", verb)):
        if not isinstance(value, str | None):
            raise ConfigError(f"{path}: {key}: expected the name of one, got {value!r}")
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = ((str(path), document),)
    if base is not None:
        before = _find(base, path.parent, (*children, path.resolve()))
        parts, verb = (*before.parts, *parts), before.verb if verb is None else verb
    return Recipe(str(path), verb, about, parts)


def _flatten(document: Mapping[Any, Any], options: Collection[str], where: str, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        is_section = any(known.startswith(f"{key}.") for known in options)
        if key in options:
            entries = {key: value}
        elif is_section and (not value or isinstance(value, Mapping)):
            entries = _flatten(value or {}, options, where, f"{key}.")
        elif is_section:
            raise ConfigError(f"{key} in {where} is a section of options, not a value: got {value!r}")
        else:
            raise ConfigError.unknown_key(key, [*options, "base", "verb"] if not prefix else options, where)
        twice = sorted(flat.keys() & entries.keys())
        if twice:
            raise ConfigError(f"{where}: key {twice[0]!r} is given twice")
        flat |= entries
    return flat


class _TextLoader(yaml.BaseLoader):
    """Mappings, sequences and text: an option's type says what a text means, so `no` and 2020-01-01 stay words."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse tags and aliases before anything is built."""
        event = self.peek_event()
        for kind, value in (("tags", getattr(event, "tag", None)), ("anchors and aliases", event.anchor)):
            if value is not None:
                raise yaml.composer.ComposerError(
                    None, None, f"{kind} such as {value} are not allowed", event.start_mark
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key given twice is an error, where YAML would silently take the last."""
        keys = Counter(str(key.value) for key, _ in node.value)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read_mapping(path: Path, child: Path | None = None) -> tuple[dict[str, Any], str]:
    """Return the mapping in a file, and the comment in its first line."""
    try:
        if path.exists() and not path.is_file():  # a named pipe would never end
            raise ConfigError(f"{path}: a recipe is a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: over {_MAX_BYTES >> 10} KB are too many for a recipe")
        text = content.decode("utf-8")
    except OSError as error:
        origin = f" (the base of {child})" if child else ""
        raise ConfigError(f"cannot read the recipe {path}{origin}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file") from error
    document = read_yaml(text, str(path))
    if not isinstance(document, dict | None):
        raise ConfigError(f"{path}: a recipe is a mapping of options, this is a {type(document).__name__}")
    first_line = text.partition("\n")[0]
    return document or {}, first_line[1:].strip() if first_line.startswith("#") else ""
