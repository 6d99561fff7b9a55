"""The configuration of a model as a Hugging Face class."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

from transformers import PretrainedConfig

from aape.models.companions import AUTO_MAP, CODE_NAME, write_companions
from aape.models.config_file import CONFIG_NAME, read_head_pool, read_loop_to, read_mapping, read_pooling, read_sections


class AaPEConfig(PretrainedConfig):
    """What `config.json` holds.

    Args:
        encoder: fields of `aape.models.config.EncoderConfig`; the others keep their defaults.
        front_end: fields of `aape.models.config.FrontEndConfig`, likewise.
        training: how the model was trained.
        card: what the model card says beside that, see `aape.models.saved.save_model`.
        loop_to: length in seconds that shorter sounds were looped to in training; None or 0: nothing is looped.
        pool: what vectors the model recommends, see `aape.models.pooling.pool`; None for "cls_mean".
        layers: blocks that these are of, counted from 1; none for the last.
        head_pool: what vector a classifier reads, of the last block; None for "cls", the class token.
        kwargs: of `transformers.PretrainedConfig`.

    Raises:
        CheckpointError: a section has an unknown key, or a value of another type or out of range, or no such
            pool or block.
    """

    model_type = "aape"
    keys_to_ignore_at_inference: ClassVar = ["hidden_states", "attention_mask"]  # the Trainer's metrics take logits

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        front_end: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        card: dict[str, Any] | None = None,
        loop_to: float | None = None,
        pool: str | None = None,
        layers: list[int] | None = None,
        head_pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        sections = {"encoder": encoder or {}, "front_end": front_end or {}, "training": training, "card": card}
        made, front_end_made = read_sections(sections, CONFIG_NAME)
        self.encoder, self.front_end = dataclasses.asdict(made), dataclasses.asdict(front_end_made)
        self.training, self.card = (read_mapping(sections, key, CONFIG_NAME) for key in ("training", "card"))
        self.loop_to = read_loop_to(loop_to, CONFIG_NAME)
        use = {"pool": pool, "layers": layers}
        self.pool, chosen = read_pooling(use, made.depth, CONFIG_NAME)
        self.layers = list(chosen)
        self.head_pool = read_head_pool(head_pool, CONFIG_NAME)
        super().__init__(**{**kwargs, "auto_map": dict(AUTO_MAP)})

    @property
    def hidden_size(self) -> int:
        """D, the width of a token."""
        return int(self.encoder["embed_dim"])

    @property
    def num_hidden_layers(self) -> int:
        """How many blocks there are."""
        return int(self.encoder["depth"])

    @property
    def num_attention_heads(self) -> int:
        """How many heads each block has."""
        return int(self.encoder["num_heads"])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Read a configuration as transformers does, and name where it came from, as `AutoConfig` does."""
        name = pretrained_model_name_or_path
        return super().from_pretrained(name, *args, **{"name_or_path": os.fspath(name), **kwargs})

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: saved folders name this class, and hold no copy of its code."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write `config.json`, and what lets `trust_remote_code=True` read it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_companions(save_directory, CODE_NAME)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written: both sections in full, also where they equal the defaults of this version."""
        sections = {"encoder": self.encoder, "front_end": self.front_end, "training": self.training, "card": self.card}
        return {**super().to_diff_dict(), **sections}
