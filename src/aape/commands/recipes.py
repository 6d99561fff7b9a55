"""`aape recipes`: which recipes there are, and what one of them stands for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from aape.commands.finetune import FinetuneConfig
from aape.commands.options import build_config, option_table, recipe_values
from aape.commands.pretrain import PretrainConfig
from aape.commands.probe import ProbeConfig
from aape.commands.recipe import Recipe, find_recipe, shipped_recipes
from aape.errors import ConfigError

RUNS: dict[str, type] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}


@dataclass(frozen=True)
class RecipesConfig:
    """`aape recipes`: list the recipes, or print one as YAML with every option, to save and edit.

    Args:
        name: the recipe to print, a name or a path; or the folder to list, such as paper.
    """

    name: str | None = field(default=None, metadata={"positional": True})


def recipes(config: RecipesConfig) -> None:
    """List the recipes of the package, or print one.

    Raises:
        ConfigError: there is no such recipe, or it does not say which verb it is for.
    """
    folder = "" if config.name is None else f"{config.name.rstrip('/')}/"
    listed = {name: recipe for name, recipe in shipped_recipes().items() if name.startswith(folder)}
    if config.name is not None and (config.name in shipped_recipes() or not listed):
        print(_as_yaml(find_recipe(config.name)), end="")
        return
    width = max(map(len, listed))
    for name, recipe in listed.items():
        print(f"{name:<{width}}  {recipe.verb:<8}  {recipe.about}")


def _as_yaml(recipe: Recipe) -> str:
    """Return a recipe that depends on no other: every option, the defaults and the task's protocol included."""
    import yaml

    nested: dict[str, Any] = {"verb": recipe.verb}
    settings = resolved(recipe)
    options = option_table(RUNS[str(recipe.verb)])
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        if key in options:  # the others are fixed: no recipe may set them
            (nested.setdefault(section, {}) if section else nested)[name] = value
    body = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=120)
    return f"# {recipe.name}: {recipe.about}\n{body}"


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return every setting that a recipe stands for, defaults and the task's protocol included, by dotted key.

    Raises:
        ConfigError: it does not say which verb it is for, or a value does not fit its option.
    """
    if recipe.verb not in RUNS:
        choices = ", ".join(RUNS)
        raise ConfigError(f"{recipe.name} does not say which verb it is for: give it `verb:`, one of {choices}")
    config_class = RUNS[recipe.verb]
    values = recipe_values(recipe, config_class)
    missing = {option.key for option in option_table(config_class).values() if option.is_required} - values.keys()
    settings = settings_of(build_config(config_class, dict.fromkeys(missing, "") | values), recipe.verb)
    return {key: value for key, value in settings.items() if key not in missing}


def settings_of(config: Any, verb: str) -> dict[str, Any]:
    """Return the settings of a configuration, the task's protocol included, by dotted key."""
    from aape.downstream.tables import flatten
    from aape.runs.files import plain

    return with_protocol(flatten(plain(dataclasses.asdict(config))), verb)


def with_protocol(settings: dict[str, Any], verb: str) -> dict[str, Any]:
    """Add to settings what their task sets and they leave open."""
    from aape.data.corpora import protocol

    stage = {"finetune": "finetuning", "probe": "probing"}.get(verb)
    if settings.get("protocol", "linear") != "linear":  # a task sets a linear probe only
        stage = None
    of_task = protocol(settings["task"], stage) if stage else {}
    return settings | {key: value for key, value in of_task.items() if settings.get(key) is None}
