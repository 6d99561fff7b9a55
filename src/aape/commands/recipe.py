"""Options as data: the flat table of a configuration's options, and the strict YAML recipes that set them.

A recipe is a YAML mapping of the configuration's fields, nested (`optim: {learning_rate: 1e-3}`) or dotted
(`optim.learning_rate: 1e-3`). `base: other.yaml`, relative to the recipe's own folder, starts from another recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aape.errors import ConfigError

ConfigT = TypeVar("ConfigT")

_MOST_BYTES = 1 << 20
_MOST_NODES = 10_000  # values of a recipe, each alias counted as all that it stands for


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a configuration.

    Args:
        key: dotted name, as in `optim.learning_rate`.
        type: the resolved type annotation.
        default: the default, `dataclasses.MISSING` where the option is required.
        help: one sentence for people.
        group: title of the section, empty at the top.
        positional: whether the command line takes it without a name.
    """

    key: str
    type: Any
    default: Any
    help: str
    group: str
    positional: bool

    @property
    def is_required(self) -> bool:
        """Whether the option has no default."""
        return self.default is dataclasses.MISSING


def option_table(config_class: type, *, prefix: str = "", group: str = "") -> dict[str, Option]:
    """Return every option of a configuration class by dotted key, nested sections included.

    A field that is itself a dataclass is a section. So is a field with `metadata={"fields_of": cls}`, a dict of
    overrides of the fields of `cls`. `prefix` and `group` are the section's own key and title.
    """
    hints = typing.get_type_hints(config_class)
    helps = _field_helps(config_class)
    table: dict[str, Option] = {}
    for field in dataclasses.fields(config_class):
        section = field.metadata.get("fields_of", hints[field.name])
        if dataclasses.is_dataclass(section):
            title = f"{prefix}{field.name}: {helps.get(field.name, '')}".rstrip(": ")
            table |= option_table(typing.cast(type, section), prefix=f"{prefix}{field.name}.", group=title)
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        key = prefix + field.name
        positional = bool(field.metadata.get("positional"))
        table[key] = Option(key, hints[field.name], default, helps.get(field.name, ""), group, positional)
    return table


def build_config(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from flat values of the right types; what is not given keeps its default.

    Args:
        config_class: a dataclass.
        values: value by dotted key.

    Raises:
        ConfigError: for an unknown key, or a required one that is missing.
    """
    table = option_table(config_class)
    for key in values:
        if key not in table:
            raise ConfigError.unknown_key(key, table)
    missing = [option for option in table.values() if option.is_required and option.key not in values]
    if missing:
        raise ConfigError("missing required " + ", ".join(_command_line_name(option) for option in missing))
    return typing.cast(ConfigT, _build(config_class, values))


def load_recipe(path: str | Path, config_class: type) -> dict[str, Any]:
    """Read a recipe and the recipes it is based on.

    Args:
        path: the YAML file.
        config_class: the dataclass whose options the recipe may set.

    Returns:
        Value by dotted key, as YAML gives it: not yet checked against the option's type.

    Raises:
        ConfigError: when a file is missing or not plain YAML, names a key twice or one that does not exist (the nearest
            one is shown), or is based on itself.
    """
    return _load(Path(path), option_table(config_class), ())


def _load(path: Path, table: Mapping[str, Option], children: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in children:
        raise ConfigError(f"{path}: is based on itself")
    document = _read_yaml(path, children[-1] if children else None)
    base = document.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the path of a recipe, got {base!r}")
    inherited = _load(path.parent / base, table, (*children, resolved)) if base is not None else {}
    return inherited | _flatten(document, table, str(path))


def _flatten(document: Mapping[Any, Any], table: Mapping[str, Option], where: str, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        key = f"{prefix}{name}"
        is_section = any(known.startswith(f"{key}.") for known in table)
        if key in table:
            entries = {key: value}
        elif is_section and (value is None or isinstance(value, Mapping)):
            entries = _flatten(value or {}, table, where, f"{key}.")
        elif is_section:
            raise ConfigError(f"{key} in {where} is a section of options, not a value: got {value!r}")
        else:
            raise ConfigError.unknown_key(key, [*table, "base"] if not prefix else table, where)
        twice = sorted(flat.keys() & entries.keys())
        if twice:
            raise ConfigError(f"{where}: key {twice[0]!r} is given twice")
        flat |= entries
    return flat


def _build(config_class: type, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(config_class)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        within = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{field.name}.")}
        if field.name in values:
            arguments[field.name] = values[field.name]
        elif within and "fields_of" in field.metadata:
            arguments[field.name] = within
        elif within:
            arguments[field.name] = _build(hints[field.name], within)
    return config_class(**arguments)


def _field_helps(config_class: type) -> dict[str, str]:
    """Return the text of each field in the `Args:` section of a dataclass's docstring."""
    _, _, section = inspect.cleandoc(config_class.__doc__ or "").partition("Args:\n")
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _command_line_name(option: Option) -> str:
    return option.key.upper().rstrip("S") if option.positional else "--" + option.key.replace("_", "-")


class _PlainLoader(yaml.SafeLoader):
    """Mappings, sequences, strings, numbers, true, false and null: no tags, dates, octals, `yes` or `no`."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key given twice is an error, where YAML would silently take the last."""
        keys = set()
        for node_of_key, _ in node.value:
            key = node_of_key.value
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain text", node.start_mark)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-3 as a string and `no` as false; these are the forms of YAML 1.2.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _check_events(text: str, path: Path) -> None:
    """Refuse tags, and aliases that unfold to more than a recipe can be, before anything is built."""
    sizes: dict[str, int] = {}  # nodes that the alias of an anchor stands for
    opened: list[tuple[str | None, int]] = []  # anchor of each open collection, and the count where it began
    count = 0
    for event in yaml.parse(text):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{path}: line {line}: tags such as {event.tag} are not allowed")
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionEndEvent):
            begun, before = opened.pop()
            if begun is not None:
                sizes[begun] = count - before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(begun == anchor for begun, _ in opened):
                raise ConfigError(f"{path}: line {line}: *{anchor} holds itself")
            count += sizes.get(anchor or "", 1)
        else:
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((anchor, count - 1))
            elif anchor is not None:
                sizes[anchor] = 1
        if count > _MOST_NODES:
            raise ConfigError(f"{path}: line {line}: over {_MOST_NODES} values are too many for a recipe")


def _read_yaml(path: Path, child: Path | None) -> dict[Any, Any]:
    try:
        if path.exists() and not path.is_file():  # a named pipe would never end
            raise ConfigError(f"{path}: a recipe is a file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path}: over {_MOST_BYTES >> 20} MB are too many for a recipe")
        text = content.decode("utf-8")
    except OSError as error:
        origin = f" (the base of {child})" if child else ""
        raise ConfigError(f"cannot read the recipe {path}{origin}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file") from error
    try:
        _check_events(text, path)
        document = yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{path}: {line}{getattr(error, 'problem', None) or error}") from error
    except (RecursionError, ValueError) as error:  # such as an integer of 5,000 digits
        raise ConfigError(f"{path}: not plain YAML ({error})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of options, this is a {type(document).__name__}")
    return document
