"""Command-line arguments into a configuration: `--name value` for every option, `--config recipe.yaml` for many."""

from __future__ import annotations

import argparse
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aape.commands.recipe import Option, build_config, load_recipe, option_table
from aape.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

ConfigT = TypeVar("ConfigT")
Device = Literal["auto", "cpu", "cuda", "mps"]
Task = Literal["csv", "as2m", "as20k", "esc50", "scv2", "us8k", "nsynth", "cremad"]


def parse(config_class: type[ConfigT], argv: Sequence[str], *, verb: str = "") -> ConfigT:
    """Turn command-line arguments into a configuration.

    Args:
        config_class: the dataclass of the options.
        argv: arguments such as `["--config", "recipe.yaml", "--optim.learning-rate", "1e-3"]`.
        verb: name shown in the help.

    Raises:
        ConfigError: names the option that is unknown, missing, without a value or of the wrong type.
    """
    table = option_table(config_class)
    given = _split(argv, table)
    parser = build_parser(verb, config_class)
    values: dict[str, Any] = {}
    if "config" in given:
        recipe = given.pop("config")
        for key, value in load_recipe(recipe, config_class).items():
            values[key] = _check(parser, table[key], value, f"{key} in {recipe}")
    for key, text in given.items():
        values[key] = _check(parser, table[key], text, _flag(key), from_text=True)
    return build_config(config_class, values)


def build_parser(verb: str, config_class: type) -> ArgumentParser:
    """Return the parser of a verb, whose help is shown to people and whose types check values."""
    from jsonargparse import ActionYesNo, ArgumentParser

    table = option_table(config_class)
    parser = ArgumentParser(
        prog=f"aape {verb}".strip(),
        usage=_usage(verb, table.values()),
        description=summary(config_class),
        epilog="[ours] marks a default that the paper does not state. In names, dashes and underscores are the same.",
        formatter_class=argparse.HelpFormatter,
        exit_on_error=False,
        default_env=False,
    )
    recipe_help = "YAML file of options; the command line overrides it"
    parser.add_argument("--config", type=str, metavar="RECIPE", help=recipe_help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    groups: dict[str, Any] = {"": parser}
    for option in table.values():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        # Nothing is `required` here: a recipe may give it, so `build_config` is what asks for it.
        settings: dict[str, Any] = {"help": _help(option), "default": argparse.SUPPRESS}
        if option.positional:
            count = "?" if option.type is str else "*"
            groups[option.group].add_argument(option.key, type=str, nargs=count, metavar=_metavar(option), **settings)
        elif option.type is bool:
            settings["default"] = option.default
            groups[option.group].add_argument(_flag(option.key), action=ActionYesNo(no_prefix="no-"), **settings)
        else:
            groups[option.group].add_argument(_flag(option.key), type=option.type, metavar=_metavar(option), **settings)
    return parser


def summary(config_class: type) -> str:
    """Return what the verb of a configuration does, in one line: the first of its docstring."""
    first_line = (config_class.__doc__ or "").partition("\n")[0]
    return first_line.partition(": ")[2].rstrip(".")


def _split(argv: Sequence[str], table: Mapping[str, Option]) -> dict[str, Any]:
    """Split arguments into text by option key; flags give booleans, positional arguments a list.

    Done here rather than by argparse so that dashes and underscores are one, positional arguments may stand anywhere,
    and an unknown option is answered with the nearest valid one.
    """
    positional_key = next((key for key, option in table.items() if option.positional), None)
    given: dict[str, Any] = {}
    positionals: list[str] = []
    pending = list(argv)
    while pending:
        argument = pending.pop(0)
        if argument == "--":
            positionals += pending
            break
        if not argument.startswith("--"):
            if positional_key is None or (argument.startswith("-") and len(argument) > 1):
                raise ConfigError(f"unexpected argument {argument!r}: options are given as --name value")
            positionals.append(argument)
            continue
        name, has_value, value = argument[2:].partition("=")
        key = name.replace("-", "_")
        option = table.get(key)
        negated = table.get(key.removeprefix("no_")) if key.startswith("no_") else None
        if option is not None and option.type is bool:
            given[key] = value if has_value else "true"
        elif negated is not None and negated.type is bool and not has_value:
            given[negated.key] = "false"
        elif (option is None and key != "config") or (option is not None and option.positional):
            names = [_flag(known) for known, other in table.items() if not other.positional]
            raise ConfigError.unknown_key(f"--{name}", [*names, "--config"])
        elif has_value:
            given[key] = value
        elif not pending or pending[0].startswith("--"):
            raise ConfigError(f"{_flag(key)} needs a value")
        else:
            given[key] = pending.pop(0)
    if positional_key is not None and positionals:
        takes_one = table[positional_key].type is str
        if takes_one and len(positionals) > 1:
            raise ConfigError(
                f"unexpected argument {positionals[1]!r}: one {_metavar(table[positional_key])} at a time"
            )
        given[positional_key] = positionals[0] if takes_one else positionals
    return given


def _check(parser: ArgumentParser, option: Option, value: Any, where: str, *, from_text: bool = False) -> Any:
    """Return a value as the option's type, or say where it is wrong."""
    refusal = ConfigError(f"{where}: expected {_type_in_words(option.type)}, got {value!r}")
    if option.type is bool:
        truth = {"true": True, "false": False}.get(value) if from_text else value
        if not isinstance(truth, bool):
            raise refusal
        return truth
    if option.positional:
        if option.type is str and isinstance(value, str):
            return value
        if option.type is str or not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise refusal
        return value
    try:
        if from_text:
            is_bare_list = typing.get_origin(option.type) is tuple and not value.startswith("[")
            text = f"[{value}]" if is_bare_list else value
            checked = parser.parse_args([f"{_flag(option.key)}={text}"], defaults=False)[option.key]
        else:
            nested: Any = value
            for part in reversed(option.key.split(".")):
                nested = {part: nested}
            checked = parser.parse_object(nested, defaults=False)[option.key]
    except argparse.ArgumentError as error:
        raise refusal from error
    # No quantity in the package is below zero, and NaN is never meant.
    if isinstance(checked, (int, float)) and not 0 <= checked < math.inf:
        raise refusal
    return checked


def _usage(verb: str, options: Iterable[Option]) -> str:
    needed = [_metavar(o) if o.positional else f"{_flag(o.key)} {_metavar(o)}" for o in options if o.is_required]
    return " ".join(["aape", verb, *needed, "[--config RECIPE] [options]"])


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _metavar(option: Option) -> str:
    if option.positional:
        return option.key.upper() if option.type is str else f"{option.key.upper().rstrip('S')} ..."
    if typing.get_origin(option.type) is Literal:
        return "{" + ",".join(map(str, typing.get_args(option.type))) + "}"
    return {int: "N", float: "X"}.get(option.type, option.key.rpartition(".")[2].upper())


def _help(option: Option) -> str:
    if option.is_required:
        note = " (required)"
    elif option.default is None:
        note = ""
    elif option.type is bool:
        note = f" (default: {'on' if option.default else 'off'})"
    elif isinstance(option.default, float):
        note = f" (default: {option.default:g})"
    else:
        note = f" (default: {json.dumps(option.default) if isinstance(option.default, tuple) else option.default})"
    return (option.help + note).replace("%", "%%")  # argparse formats help texts with the % operator


def _type_in_words(annotation: Any) -> str:
    """Say a type for people: "a whole number", "one of auto, cpu"."""
    plain = {
        int: "a whole number from 0",
        float: "a number from 0",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    if annotation in plain:
        return plain[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type_in_words, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list [{', '.join(map(_type_in_words, inner))}]"
    if origin in (tuple, list):
        return f"a list [{_type_in_words(inner[0])}, ...]"
    return str(annotation)
