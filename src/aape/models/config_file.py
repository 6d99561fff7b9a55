"""Reads the `config.json` of a saved model: every value is checked before anything is built from it."""

from __future__ import annotations

import dataclasses
import datetime
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from aape.data.log_mel import LogMel
from aape.errors import CheckpointError, ConfigError
from aape.models.config import MAX_LOOP_TO, EncoderConfig, FrontEndConfig, Pool
from aape.models.pooling import check_pooling

CONFIG_NAME = "config.json"
# Bounds of what costs time or memory and does not show in the shape of a tensor.
MAX_PATCH_FRAMES = 1 << 13
_MAX = {
    "embed_dim": 1 << 13,
    "n_mels": 1 << 13,
    "stride": 1 << 13,
    "depth": 1 << 10,
    "lambda_depth": 1 << 10,
    "kernel_size": 1 << 13,
    "patch_size": MAX_PATCH_FRAMES,
    "decay_start": 100,
}
_CARD_KEYS = ("data", "datasets", "license", "date", "scores")
_SCORE_KEYS = ("data", "metric", "value", "protocol")
SectionT = TypeVar("SectionT", EncoderConfig, FrontEndConfig)


def read_sections(values: Mapping[str, Any], where: str) -> tuple[EncoderConfig, FrontEndConfig]:
    """Read what a model is made of from its configuration; messages begin with `where`.

    Raises:
        CheckpointError: a key is missing or unknown, or a value of another type or out of range.
    """
    encoder = _section(values.get("encoder"), "encoder", EncoderConfig, where)
    front_end = read_front_end(values.get("front_end"), where)
    for dim, heads in (("embed_dim", "num_heads"), ("lambda_dim", "lambda_heads")):
        if getattr(encoder, dim) % getattr(encoder, heads):
            numbers = f"{dim} {getattr(encoder, dim)} is no multiple of {heads} {getattr(encoder, heads)}"
            raise CheckpointError(f"{where}: encoder: {numbers}")
    if front_end.n_mels != encoder.n_mels:
        raise CheckpointError(f"{where}: {front_end.n_mels} mel bins in front_end, {encoder.n_mels} in encoder")
    return encoder, front_end


def read_front_end(values: Any, where: str) -> FrontEndConfig:
    """Read a front end as `read_sections` does, with its errors."""
    front_end = _section(values, "front_end", FrontEndConfig, where)
    try:
        LogMel(**dataclasses.asdict(front_end))
    except ValueError as error:
        raise CheckpointError(f"{where}: front_end: {error}") from error
    return front_end


def read_mapping(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return a free section of a configuration, empty where it is missing; a CheckpointError where it is none."""
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {key}: expected a mapping, got {value!r}")
    return value


def read_card(values: Any, where: str) -> dict[str, Any]:
    """Check what a model card says beside the configuration, see `aape.models.saved.save_model`; None for nothing.

    Raises:
        CheckpointError: an unknown key, or a value that the card could not state.
    """
    where, card = f"{where}: card", read_mapping({"card": values}, "card", where)
    _check_keys(card, _CARD_KEYS, where)
    for key in ("data", "license", "date"):
        if not isinstance(card.get(key, ""), str):
            raise CheckpointError(f"{where}: {key}: expected a text, got {card[key]!r}")
    if "date" in card and not _is_date(card["date"]):
        raise CheckpointError(f"{where}: date: expected one such as 2026-11-28, got {card['date']!r}")
    datasets, scores = card.get("datasets", []), card.get("scores", [])
    if not isinstance(datasets, (list, tuple)) or not all(isinstance(name, str) and name for name in datasets):
        raise CheckpointError(f"{where}: datasets: expected a list of names, got {datasets!r}")
    if not isinstance(scores, (list, tuple)) or not all(isinstance(score, dict) for score in scores):
        raise CheckpointError(f"{where}: scores: expected a list of mappings, got {scores!r}")
    for number, score in enumerate(scores):
        name = f"{where}: scores, {number}"
        _check_keys(score, _SCORE_KEYS, name)
        for key in _SCORE_KEYS:
            value, is_number = score.get(key), key == "value" and _is_number(score.get(key))
            if not is_number and not (isinstance(value, str) and value.strip()):
                raise CheckpointError(f"{name}: {key}: expected a {'number or ' * (key == 'value')}text, got {value!r}")
    return card


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise CheckpointError(f"{where}: {ConfigError.unknown_key(str(key), known)}")


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_loop_to(value: Any, where: str) -> float:
    """Return the length in seconds that shorter sounds are looped to, 0 where none is stated.

    Raises:
        CheckpointError: it is no number from 0 to `MAX_LOOP_TO`.
    """
    if value is None:
        return 0.0
    if not _fits(value, float) or not 0 <= value <= MAX_LOOP_TO:
        raise CheckpointError(f"{where}: loop_to: expected 0 to {MAX_LOOP_TO:g} seconds, got {value!r}")
    return float(value)


def read_pooling(values: Mapping[str, Any], depth: int, where: str) -> tuple[Pool, tuple[int, ...]]:
    """Return the pool and the blocks that a model recommends, "cls_mean" of the last where none are stated.

    Raises:
        CheckpointError: there is no such pool, or no such block.
    """
    kind, layers = values.get("pool"), values.get("layers")
    try:
        return check_pooling("cls_mean" if kind is None else kind, [] if layers is None else layers, depth)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def read_head_pool(value: Any, where: str) -> Pool:
    """Return the pool that a classifier reads, "cls" where none is stated; a CheckpointError where there is no such."""
    try:
        return check_pooling("cls" if value is None else value, [], 1)[0]
    except ConfigError as error:
        raise CheckpointError(f"{where}: head_{error}") from error


def _section(values: Any, key: str, section: type[SectionT], where: str) -> SectionT:
    """Read one of our dataclasses; fields that a file does not name keep their defaults."""
    if not isinstance(values, dict):
        reason = "missing" if values is None else f"expected a mapping, got {values!r}"
        raise CheckpointError(f"{where}: {key}: {reason}")
    annotations = typing.get_type_hints(section)
    for name, value in values.items():
        if name not in annotations:
            raise CheckpointError(f"{where}: {ConfigError.unknown_key(name, annotations, key)}")
        if not _fits(value, annotations[name]):
            choices = typing.get_args(annotations[name])
            expected = f"one of {', '.join(choices)}" if choices else annotations[name].__name__
            raise CheckpointError(f"{where}: {key}.{name}: expected {expected}, got {value!r}")
        if type(value) is int and annotations[name] is int and value <= 0:
            raise CheckpointError(f"{where}: {key}.{name}: must be above 0, got {value}")
        if name in _MAX and value > _MAX[name]:
            raise CheckpointError(f"{where}: {key}: {name} {value}, the most is {_MAX[name]}")
    return section(**values)


def _fits(value: Any, annotation: Any) -> bool:
    if choices := typing.get_args(annotation):
        return any(value is choice or value == choice for choice in choices)
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is annotation
