"""`aape VERB [options]`: every verb is a configuration and the function it is given to.

Options are the fields of the configuration, `--config recipe.yaml` sets many at once and the command line overrides it.
To add a verb, write its dataclass in `aape.config` and its function, and add one line to `VERBS`. A verb may be two
words, as in `aape data pack`.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aape import config
from aape.errors import AapeError, ConfigError, one_line
from aape.options import build_parser, parse, summary
from aape.version import __version__


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Args:
        config_class: the dataclass whose fields are the verb's options, and whose first line says what it does.
        function: `module:name` of the function that gets the configuration; imported only when the verb runs.
    """

    config_class: type
    function: str

    @property
    def summary(self) -> str:
        """What the verb does, in one line."""
        return summary(self.config_class)


VERBS: dict[str, Verb] = {
    "pretrain": Verb(config.PretrainConfig, "aape.pretraining.run:pretrain"),
    "finetune": Verb(config.FinetuneConfig, "aape.finetuning.run:finetune"),
    "probe": Verb(config.ProbeConfig, "aape.probing.run:probe"),
    "table": Verb(config.TableConfig, "aape.tables.run:table"),
    "table run": Verb(config.QueueConfig, "aape.tables.queue:run_queue"),
    "embed": Verb(config.EmbedConfig, "aape.inference.embedding:embed_command"),
    "classify": Verb(config.ClassifyConfig, "aape.inference.classification:classify_command"),
    "export": Verb(config.ExportConfig, "aape.export:export"),
    "data pack": Verb(config.DataPackConfig, "aape.corpus:pack"),
    "data check": Verb(config.DataCheckConfig, "aape.corpus:check"),
    "stats": Verb(config.StatsConfig, "aape.stats:stats"),
    "plot windows": Verb(config.PlotWindowsConfig, "aape.plot:plot_windows"),
    "plot clip": Verb(config.PlotClipConfig, "aape.plot:plot_clip"),
    "plot aliasing": Verb(config.PlotAliasingConfig, "aape.plot:plot_aliasing"),
    "plot run": Verb(config.PlotRunConfig, "aape.plot:plot_run"),
    "demo": Verb(config.DemoConfig, "aape.demo.run:demo"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `aape`; by default those of the process.

    Returns:
        The exit status: 0, or 2 after an error that was expected and told in one line, or 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name or a label need not be in the terminal's alphabet
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run([argument for argument in arguments if argument != "--debug"])
    except (AapeError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has left, as in `aape --help | head`: nothing to say and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if debug:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"  # without "[Errno 2]"
        print(f"aape: error: {one_line(message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"aape {__version__}")
        return 0
    name, *rest = arguments
    second = [verb for verb in VERBS if verb.startswith(f"{name} ")]
    if second and (name not in VERBS or f"{name} {' '.join(rest[:1])}" in VERBS):
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview(second))
            return 0
        name, *rest = f"{name} {rest[0]}", *rest[1:]
    if name not in VERBS:
        kind = "option" if name.startswith("-") else "verb"
        valid = ", ".join(second or VERBS) if kind == "verb" else "--help, --version, --debug"
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {valid}")
    verb = VERBS[name]
    if {"-h", "--help"} & set(rest):
        build_parser(name, verb.config_class).print_help()
        return 0
    configuration: Any = parse(verb.config_class, rest, verb=name)
    module_name, _, function_name = verb.function.partition(":")
    function: Callable[[Any], None] = getattr(importlib.import_module(module_name), function_name)
    function(configuration)
    return 0


def _overview(names: Iterable[str] = ()) -> str:
    shown = {name: VERBS[name] for name in names or VERBS}
    width = max(map(len, shown))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in shown.items())
    return (
        "usage: aape VERB [options]\n\n"
        "Aliasing-aware patch embedding: self-supervised audio encoders, trained, measured and used.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options:\n"
        "  -h, --help  show this text, or after a verb its options\n"
        "  --version   show the version\n"
        "  --debug     after a verb: show the traceback of an error"
    )
