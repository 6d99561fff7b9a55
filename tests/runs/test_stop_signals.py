"""A signal ends the program, whatever a library makes of it on the way; real processes are in tests/reliability."""

import contextlib
import os
import signal

import pytest

from aape.runs.signals import Stopped, raising

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise there")


def swallow():
    with contextlib.suppress(Stopped):
        signal.raise_signal(signal.SIGTERM)


def turn_into_another():
    try:
        signal.raise_signal(signal.SIGTERM)
    except Stopped as error:
        raise RuntimeError("Error calling __set_name__") from error


@pytest.mark.parametrize("act", [swallow, turn_into_another])
def test_a_signal_that_a_library_swallows_or_changes_ends_the_program_all_the_same(act):
    """Guarded imports and definitions of classes do: the verb would finish, or crash, as if nobody had asked."""
    with pytest.raises(Stopped) as caught, raising():
        act()
    assert caught.value.code == 143


def test_an_error_without_a_signal_is_that_error():
    with pytest.raises(RuntimeError, match="another"), raising():
        raise RuntimeError("another")
