"""Every number that can be typed, at its extremes: read as it was meant, or refused in one line that names it."""

import contextlib
import sys
import typing

import pytest

from aape import cli
from aape.commands.options import option_table, parse
from aape.errors import ConfigError

NUMBERS = (int, float)
NEVER = ("-1", str(2**63), str(-(2**63)), "1" + 30 * "0", "nan", "inf", "-inf", "1e309", "1_000", "\uff11\uff12",
         " 5", "5 ", "0x10", "1e3", "1.5", "", "9" * 5000)  # fmt: skip
NOT_A_NUMBER = ("-1", "nan", "inf", "-inf", "1e309", "1_000", "\uff11\uff12", " 5", "5 ", "0x10", "", "1e", ".")
EXTREMES = ("0", "-0", str(2**31), str(2**32), str(2**63 - 1), "1e-320", "1e300", str(sys.float_info.max))


def kind_of(option):
    """Return int or float, or None for what is no number; a list is as its items."""
    kinds = [option.type, *typing.get_args(option.type)]
    return next((kind for kind in NUMBERS if kind in kinds), None)


def numbers():
    """List every option of every verb that takes a number, with what is required beside it."""
    for verb in cli.VERBS:
        config_class = cli.load_verb(verb)[1]
        options = option_table(config_class).values()
        needed = [word for o in options if o.is_required for word in (["x"] if o.positional else [o.flag, "x"])]
        for option in options:
            if kind_of(option):
                yield pytest.param(verb, config_class, needed, option, id=f"{verb} {option.flag}")


def value_of(config, key):
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name)
    return config


@pytest.mark.parametrize(("verb", "config_class", "needed", "option"), numbers())
def test_a_number_is_read_or_refused_by_name(verb, config_class, needed, option):
    """A slip of the hand must not be a traceback, an endless run, or another number than the one that was typed."""
    is_list = typing.get_origin(option.type) is tuple
    name = option.key.rpartition(".")[2]

    def read(text):
        return parse(config_class, [*needed, f"{option.flag}={text}"], verb=verb)

    refused = NEVER if kind_of(option) is int else NOT_A_NUMBER
    for text in (text for text in refused if not is_list or text == text.strip()):
        with pytest.raises(ConfigError, match=name.replace("_", "[-_]")):
            read(text)
    for text in EXTREMES:
        with contextlib.suppress(ConfigError):
            value = value_of(read(text), option.key)
            assert value == ((float(text),) if is_list else kind_of(option)(text))
