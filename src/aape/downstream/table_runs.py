"""What a recipe asks for, and what its run has left behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aape.commands.finetune import FinetuneConfig
from aape.commands.pretrain import PretrainConfig
from aape.commands.probe import ProbeConfig
from aape.commands.recipe import build_config, load_recipe, option_table
from aape.data.corpora import CORPORA, protocol
from aape.errors import ConfigError, DataError
from aape.models.config import MODEL_SIZES
from aape.runs.files import plain
from aape.runs.folder import RESULT_NAME

VERBS: dict[str, type] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}
# How a run is carried out: by this alone its numbers do not change, rounding apart.
HOW = {
    "out", "resume", "workers", "device", "save_every", "keep_checkpoints", "keep_every", "log_every", "tensorboard",
    "watch", "max_bad_fraction", "clips_at_once", "optim.precision", "optim.accumulate",
}  # fmt: skip
# What may differ from the recipe without making it another experiment.
PLACES = HOW | {"data", "checkpoint", "stats", "first_seed", "yardsticks", "selection_runs"}


def expected(recipe: Path, verb: str) -> dict[str, Any]:
    """Return every setting that a recipe stands for, defaults and the task's own included, by dotted key.

    Raises:
        ConfigError: the recipe cannot be read.
    """
    config_class = VERBS[verb]
    values = load_recipe(recipe, config_class)
    missing = {
        key: "" for key, option in option_table(config_class).items() if option.is_required and key not in values
    }
    return settings_of(build_config(config_class, {**missing, **values}), verb)


def settings_of(config: Any, verb: str) -> dict[str, Any]:
    """Return the settings of a configuration, the task's own included, by dotted key."""
    return _with_protocol(flatten(plain(dataclasses.asdict(config))), verb)


def complete(settings: Mapping[str, Any], verb: str) -> dict[str, Any]:
    """Add to settings what they leave out, as a run has it then: an option's default, the encoder's of its size."""
    options = option_table(VERBS[verb]).values()
    full = {option.key: plain(option.default) for option in options if not option.is_required}
    size = MODEL_SIZES.get(str(settings.get("model", full.get("model"))), {})
    return _with_protocol({**full, **{f"encoder.{key}": value for key, value in size.items()}, **settings}, verb)


def _with_protocol(settings: dict[str, Any], verb: str) -> dict[str, Any]:
    stage = {"finetune": "finetuning", "probe": "probing"}.get(verb)
    given = protocol(settings["task"], stage) if stage else {}
    return settings | {key: value for key, value in given.items() if settings.get(key) is None}


def read_result(run: Path) -> dict[str, Any] | None:
    """Return the `result.json` of a finished run, or None.

    Raises:
        DataError: it is damaged.
    """
    path = run / RESULT_NAME
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the result of a run ({error})") from error
    if not isinstance(result, dict):
        raise DataError(f"{path}: not the result of a run")
    return result


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings that a run was made with, by dotted key.

    Raises:
        DataError: they cannot be read.
    """
    import yaml

    path = run / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return flatten(settings if isinstance(settings, dict) else {})


def differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], verb: str, *, apart: Collection[str] = PLACES
) -> list[str]:
    """Say how a run differs from its recipe: "steps 300000 -> 300"; an option that one leaves out has its default.

    Args:
        wanted: settings of the recipe, by dotted key.
        found: those of the run.
        verb: of both.
        apart: keys, and sections, that may differ.
    """
    ours, theirs = complete(wanted, verb), complete(found, verb)
    keys = [key for key in {**wanted, **found} if not {key, key.partition(".")[0]} & set(apart)]
    changed = [key for key in keys if ours.get(key) != theirs.get(key)]
    return [f"{key} {ours.get(key, 'not set')} -> {theirs.get(key, 'not set')}" for key in changed]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_verb(verb: str) -> None:
    """Refuse what is no run.

    Raises:
        ConfigError: names the verbs that are.
    """
    if verb not in VERBS:
        raise ConfigError(f"{verb!r} is no run: choose one of {', '.join(VERBS)}")


def title_of(task: str) -> str:
    """Return the name of a task's data set."""
    return CORPORA[task].title if task in CORPORA else task
