"""What a recipe asks for, and what its run has left behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aape.config import PretrainConfig, ProbeConfig
from aape.config.finetuning import FinetuneConfig
from aape.data.corpora import CORPORA, protocol
from aape.errors import ConfigError, DataError
from aape.recipe import build_config, load_recipe, option_table
from aape.training.results import RESULT_NAME, plain

VERBS: dict[str, type] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}
# What may differ from the recipe without making it another experiment.
PLACES = {
    "data", "out", "checkpoint", "stats", "init", "resume", "workers", "device", "save_every", "keep_checkpoints",
    "log_every", "max_bad_fraction", "clips_at_once", "first_seed", "yardsticks", "selection_runs", "num_clips",
    "optim.precision", "optim.accumulate",
}  # fmt: skip


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
    settings = flatten(plain(dataclasses.asdict(build_config(config_class, {**missing, **values}))))
    if verb != "pretrain":
        stage = {"finetune": "finetuning", "probe": "probing"}[verb]
        given = protocol(settings["task"], stage)
        settings |= {key: value for key, value in given.items() if settings.get(key) is None}
    return settings


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


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Say how a run differs from its recipe: "steps 300000 -> 300"."""
    keys = [key for key in wanted if key not in PLACES and key in found and wanted[key] != found[key]]
    keys += [key for key in found if key not in PLACES and key not in wanted]
    return [f"{key} {wanted.get(key, 'not set')} -> {found[key]}" for key in keys]


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
