"""A verb's options: the fields of its dataclass, as a table, as `--name value` on the command line, and as help."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from aape.commands.recipe import Recipe, find_recipe, read_yaml
from aape.errors import ConfigError

ConfigT = TypeVar("ConfigT")
Device = Literal["auto", "cpu", "cuda", "mps"]
Task = Literal["csv", "as2m", "as20k", "esc50", "scv2", "us8k", "nsynth", "cremad"]
OURS = "[ours] marks a default that the paper does not state. "
# The largest of a type; a whole number is what numpy, torch and a sequence's length take.
_MOST = {int: 2**63 - 1, float: sys.float_info.max}
_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)  # not Python's 1_000, nor other alphabets' digits
_UNIONS = (typing.Union, types.UnionType)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a configuration."""

    key: str  # dotted name, as in `optim.learning_rate`
    type: Any  # the resolved type annotation
    default: Any  # `dataclasses.MISSING` where the option is required
    help: str  # one sentence for people
    group: str  # title of the section, empty at the top
    positional: bool  # whether the command line takes it without a name

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def takes_many(self) -> bool:
        """Whether it is a list: as a positional option, of all the arguments without a name."""
        kinds = (self.type, *typing.get_args(self.type))
        return any(typing.get_origin(kind) in (list, tuple) for kind in kinds)

    @property
    def is_switch(self) -> bool:
        """Whether it stands for itself: without a value it is on, and `--no-NAME` is off."""
        return bool in (self.type, *typing.get_args(self.type))

    @property
    def flag(self) -> str:
        """What is typed: `--optim.learning-rate`."""
        return "--" + self.key.replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        if self.positional:
            return f"{self.key.upper().rstrip('S')} ..." if self.takes_many else self.key.upper()
        kinds = typing.get_args(self.type) if typing.get_origin(self.type) in _UNIONS else (self.type,)
        kind = next(kind for kind in kinds if kind is not type(None))
        if typing.get_origin(kind) is Literal:
            return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
        return {int: "N", float: "X"}.get(kind, self.key.rpartition(".")[2].upper())


def option_table(config_class: type, *, with_fixed: bool = False) -> dict[str, Option]:
    """Return every option of a configuration class by dotted key, nested sections included.

    A field that is itself a dataclass is a section. So is a field with `metadata={"fields_of": cls}`, a dict of
    overrides of the fields of `cls`. Where `"only"` lists fields of a section, the others are fixed and left out,
    unless `with_fixed`.
    """
    hints, helps = typing.get_type_hints(config_class), _field_helps(config_class)
    table: dict[str, Option] = {}
    for field in dataclasses.fields(config_class):
        name, text = field.name, helps.get(field.name, "")
        section = field.metadata.get("fields_of", hints[name])
        if dataclasses.is_dataclass(section):
            inner = option_table(typing.cast(type, section))
            only = inner if with_fixed else field.metadata.get("only", inner)
            for key in [key for key in inner if key in only]:
                group = f"{name}: {text}".rstrip(": ")
                table[f"{name}.{key}"] = dataclasses.replace(inner[key], key=f"{name}.{key}", group=group)
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        table[name] = Option(name, hints[name], default, text, "", bool(field.metadata.get("positional")))
    return table


def parse(config_class: type[ConfigT], argv: Sequence[str], *, verb: str = "") -> ConfigT:
    """Turn arguments such as `["--config", "paper/aape", "--steps", "3"]` into a configuration.

    A recipe for another verb than `verb` is refused.

    Raises:
        ConfigError: names the option that is unknown, missing, without a value or of the wrong type.
    """
    table = option_table(config_class)
    typed = _split(argv, table)
    values = recipe_values(find_recipe(typed.pop("config"), verb), config_class) if "config" in typed else {}
    values |= {key: _check(table[key], text, table[key].flag) for key, text in typed.items()}
    return build_config(config_class, values)


def recipe_values(recipe: Recipe, config_class: type) -> dict[str, Any]:
    """Return what a recipe sets, by dotted key, each value of its option's type.

    Raises:
        ConfigError: names the key that is unknown, given twice or of the wrong type.
    """
    table = option_table(config_class)
    settings = recipe.settings(table)
    return {key: _check(table[key], value, f"{key} in {recipe.name}") for key, value in settings.items()}


def build_config(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from values of the right types by dotted key; other options keep their defaults.

    Raises:
        ConfigError: a required one is missing.
    """
    missing = [o for o in option_table(config_class).values() if o.is_required and o.key not in values]
    if missing:
        names = (o.key.upper().rstrip("S") if o.positional else o.flag for o in missing)
        raise ConfigError("missing required " + ", ".join(names))
    return typing.cast(ConfigT, _build(config_class, values))


def build_parser(verb: str, config_class: type) -> argparse.ArgumentParser:
    """Return the parser of a verb, for its help; `parse` reads the arguments."""
    options = option_table(config_class).values()
    needed = [option.metavar if option.positional else f"{option.flag} {option.metavar}"
              for option in options if option.is_required]  # fmt: skip
    needed += [f"[{option.metavar}]" for option in options if option.positional and not option.is_required]
    is_marked = any("[ours]" in option.help for option in options)
    parser = argparse.ArgumentParser(
        prog=f"aape {verb}".strip(),
        usage=" ".join(["aape", verb, *needed, "[--config RECIPE] [options]"]),
        description=summary(config_class),
        epilog=f"{OURS if is_marked else ''}In names, dashes and underscores are the same.",
    )
    recipe_help = "a recipe's name (see aape recipes) or YAML file; the command line overrides it"
    parser.add_argument("--config", metavar="RECIPE", help=recipe_help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    groups: dict[str, Any] = {"": parser}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add, text = groups[option.group].add_argument, _help(option)
        if option.positional:
            add(option.key, nargs="*" if option.takes_many else "?", metavar=option.metavar, help=text)
        elif option.is_switch:
            add(option.flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            add(option.flag, metavar=option.metavar, help=text)
    return parser


def summary(config_class: type) -> str:
    """Return what the verb of a configuration does, in one line: the first of its docstring."""
    first_line = (config_class.__doc__ or "").partition("\n")[0]
    return first_line.partition(": ")[2].rstrip(".")


def _split(argv: Sequence[str], table: Mapping[str, Option]) -> dict[str, Any]:
    """Split arguments into text by option key; flags give "true" or "false", positional arguments a list.

    Done here rather than by argparse so that dashes and underscores are one, positional arguments may stand anywhere,
    and an unknown option is answered with the nearest valid one.
    """
    positional = next((option for option in table.values() if option.positional), None)
    typed: dict[str, Any] = {}
    positionals: list[str] = []
    pending = list(argv)
    while pending:
        argument = pending.pop(0)
        if argument == "--":
            positionals += pending
            break
        if argument.startswith("--"):
            key, value = _named(argument, pending, table)
            typed[key] = value
        elif positional is None or (argument.startswith("-") and len(argument) > 1):
            raise ConfigError(f"unexpected argument {argument!r}: options are given as --name value")
        else:
            positionals.append(argument)
    if positional is not None and positionals:
        if not positional.takes_many and len(positionals) > 1:
            raise ConfigError(f"unexpected argument {positionals[1]!r}: one {positional.metavar} at a time")
        typed[positional.key] = positionals if positional.takes_many else positionals[0]
    return typed


def _named(argument: str, pending: list[str], table: Mapping[str, Option]) -> tuple[str, str]:
    """Return key and text of a `--name`, whose value may be the first of the arguments after it."""
    name, has_value, value = argument[2:].partition("=")
    key = name.replace("-", "_")
    flags = {option.key for option in table.values() if option.is_switch}
    named = {option.key: option.flag for option in table.values() if not option.positional} | {"config": "--config"}
    if key in flags:
        return key, value if has_value else "true"
    if key.removeprefix("no_") in flags and not has_value:
        return key.removeprefix("no_"), "false"
    if key not in named:
        raise ConfigError.unknown_key(f"--{name}", named.values())
    if not has_value and pending and not pending[0].startswith("--"):
        value = pending.pop(0)
    if not value:  # also that of an empty variable of the shell
        raise ConfigError(f"{named[key]} needs a value")
    is_list = key in table and table[key].takes_many
    if is_list and pending and _NUMBER.fullmatch(pending[0]) and not os.path.exists(pending[0]):
        raise ConfigError(f"{named[key]}: a list is one argument: {value},{pending[0]}")
    return key, value


def _check(option: Option, value: Any, where: str) -> Any:
    """Return a value as the option's type, or say where it is wrong."""
    try:
        return _convert(value, option.type)
    except ValueError:
        raise ConfigError(f"{where}: expected {_type_in_words(option.type)}, got {value!r}") from None


def _convert(value: Any, kind: Any) -> Any:
    """Return text, or lists of text, as a type; a number is finite and from 0, as all quantities of the package are.

    Raises:
        ValueError: it is of another type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        for choice in sorted(inner, key=lambda choice: choice is str):  # null before any other text
            with contextlib.suppress(ValueError):
                return _convert(value, choice)
    elif origin in (tuple, list):
        items = value if isinstance(value, list) else _as_list(value)
        kinds = inner if inner[-1] is not Ellipsis and len(inner) > 1 else (inner[0],) * len(items)
        if len(items) == len(kinds):
            return origin(map(_convert, items, kinds))
    elif not isinstance(value, str):
        pass
    elif kind is str or (origin is Literal and value in inner):
        return value
    elif kind is bool and value in ("true", "false"):
        return value == "true"
    elif kind is type(None) and value in ("null", "~", ""):
        return None
    elif kind in _MOST and _NUMBER.fullmatch(value) and 0 <= (number := kind(value)) <= _MOST[kind]:
        return abs(number)  # -0 is 0
    raise ValueError(value)


def _as_list(text: str) -> list[Any]:
    try:
        return list(read_yaml(text if text.startswith("[") else f"[{text}]", ""))
    except (ConfigError, TypeError) as error:
        raise ValueError(text) from error


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


def _help(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    elif isinstance(default, tuple):
        default = json.dumps(default)
    elif isinstance(default, float):
        default = f"{default:g}"
    note = " (required)" if option.is_required else "" if default is None else f" (default: {default})"
    return (option.help + note).replace("%", "%%")  # argparse formats help texts with the % operator


def _type_in_words(annotation: Any) -> str:
    """Say a type for people: "a whole number", "one of auto, cpu"."""
    plain = {int: "a whole number from 0 and below 2^63", float: "a number from 0", str: "text", bool: "true or false"}
    if annotation in plain or annotation is type(None):
        return plain.get(annotation, "null")
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in _UNIONS:
        return " or ".join(map(_type_in_words, inner))
    is_fixed = origin is tuple and inner[-1] is not Ellipsis
    return f"a list [{', '.join(map(_type_in_words, inner)) if is_fixed else _type_in_words(inner[0]) + ', ...'}]"
