"""`aape VERB [options]`: every verb, of one word or two, is a configuration and the function it is given to.

Options are the fields of the configuration, `--config recipe.yaml` sets many at once and the command line overrides it.
To add a verb, write its file in `aape.commands`, and add one line to `VERBS`.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aape import __version__
from aape.commands.options import build_parser, parse, summary
from aape.errors import AapeError, ConfigError, PlainWarnings, one_line
from aape.runs.signals import Stopped, ended_by_signals

# The function of each verb, `module:name` below `aape.commands`. The dataclass that annotates its `config` has the
# options as fields, and says in its first line what the verb does.
VERBS: dict[str, str] = {
    "pretrain": "pretrain:pretrain",
    "finetune": "finetune:finetune",
    "probe": "probe:probe",
    "table": "table:table",
    "table run": "table:run",
    "embed": "embed:embed",
    "classify": "classify:classify",
    "explore": "explore:explore",
    "export": "export:export",
    "data pack": "data:pack",
    "data check": "data:check",
    "stats": "stats:stats",
    "recipes": "recipes:recipes",
    "plot windows": "plot:plot_windows",
    "plot clip": "plot:plot_clip",
    "plot aliasing": "plot:plot_aliasing",
    "plot run": "plot:plot_run",
    "demo": "demo:demo",
}
# Verbs without --resume that use what they had finished when they were stopped
RESTARTED = ("embed", "classify", "data pack", "probe", "table run")


def load_verb(name: str) -> tuple[Callable[[Any], object], type]:
    """Import a verb: its function, and the dataclass of its options."""
    module, _, attribute = VERBS[name].partition(":")
    function = getattr(importlib.import_module(f"aape.commands.{module}"), attribute)
    return function, typing.get_type_hints(function)["config"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the process: its arguments after `aape`.

    Returns:
        The exit status: 0, or 1 where `aape data check --against` found any, or 2 after an error that was expected and
        takes one line, or 128 + the number of the signal that stopped it: 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name or a label need not be in the terminal's alphabet
        sys.stdout.reconfigure(errors="backslashreplace")
    format_before = warnings.formatwarning
    if not debug:
        warnings.formatwarning = PlainWarnings()  # type: ignore[assignment]
    try:
        with ended_by_signals():
            _run([argument for argument in arguments if argument != "--debug"])
        return 0
    except BrokenPipeError:
        # The reader of our output has closed it, as in `aape --help | head`: there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as end:
        return int(end.code or 0)
    except (AapeError, OSError) as error:
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"  # without "[Errno 2]"
        print(f"aape: error: {one_line(message)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if "memory" in line), "")
        if debug or not (isinstance(error, MemoryError) or "out of memory" in reason or "allocate memory" in reason):
            raise
        advice = "ask for less at once: fewer clips, shorter ones, or a smaller model"
        print(f"aape: error: out of memory: {advice} ({one_line(reason or repr(error))})", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = format_before


def _run(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    second = [verb for verb in VERBS if verb.startswith(f"{name} ")]
    if second and (name not in VERBS or f"{name} {' '.join(rest[:1])}" in VERBS):
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview(second, f"aape {name}"))
            return
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name in VERBS:
        config: Any = None
        try:
            function, config_class = load_verb(name)
            if {"-h", "--help"} & set(rest):
                build_parser(name, config_class).print_help()
            else:
                config = parse(config_class, rest, verb=name)
                function(config)
        except Stopped as stop:
            if os.environ.get("RANK", "0") == "0":  # the main one of torchrun's
                print(f"aape: stopped by {stop.name}: {_how_to_go_on(name, config)}", file=sys.stderr)
            raise
    elif name in ("-h", "--help"):
        print(_overview(VERBS))
    elif name == "--version":
        print(f"aape {__version__}")
    else:
        kind = "option" if name.startswith("-") else "verb"
        valid = ", ".join(second or VERBS) if kind == "verb" else "--help, --version, --debug"
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {valid}")


def _how_to_go_on(verb: str, config: Any) -> str:
    """Say what to type after a signal."""
    if hasattr(config, "resume"):
        from aape.runs.checkpoints import has_progress

        saved = "go on with --resume, from the last checkpoint"
        return saved if has_progress(config.out) else "no checkpoint yet, --resume begins anew"
    is_kept = verb in RESTARTED and getattr(config, "is_kept", True)
    return f"the same command {'goes on where it was' if is_kept else 'begins anew'}"


def _overview(names: Iterable[str], before: str = "aape") -> str:
    summaries = {name: summary(load_verb(name)[1]) for name in names}
    width = max(map(len, summaries))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in summaries.items())
    return (
        f"usage: {before} VERB [options]\n\n"
        "Aliasing-aware patch embedding: self-supervised audio encoders, trained, measured and used.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options:\n"
        "  -h, --help  show this text, or after a verb its options\n"
        "  --version   show the version\n"
        "  --debug     after a verb: show the traceback of an error"
    )
