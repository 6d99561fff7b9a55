"""Pre-training as a Hugging Face class: the student's forward with masks and losses behind transformers' interface."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from aape.errors import CheckpointError, ConfigError
from aape.huggingface.configuration import AaPEConfig
from aape.huggingface.models import AaPEPreTrainedModel
from aape.models.config import PredictorConfig
from aape.models.config_file import CONFIG_NAME
from aape.pretraining.config import LossConfig, MaskingConfig
from aape.pretraining.masking import draw_views
from aape.pretraining.teacher_student import TeacherStudent

SectionT = TypeVar("SectionT", LossConfig, MaskingConfig, PredictorConfig)


@dataclass
class AaPEForPreTrainingOutput(ModelOutput):  # type: ignore[misc, unused-ignore]
    """Scalars of `TeacherStudent.forward`; all but `loss` are there to be watched."""

    loss: Tensor | None = None
    loss_mask: Tensor | None = None
    loss_utterance: Tensor | None = None
    loss_contrastive: Tensor | None = None
    target_variance_tokens: Tensor | None = None
    target_variance_batch: Tensor | None = None
    prediction_variance_tokens: Tensor | None = None
    prediction_variance_batch: Tensor | None = None


class AaPEForPreTraining(AaPEPreTrainedModel):
    """Student (`encoder`), teacher, predictor and projection (docs/method.md 7).

    The sections `predictor`, `loss` and `masking` of `config.training` say how; their defaults are in
    `aape.models.config` and `aape.pretraining.config`. From a folder with an encoder only, the teacher starts as the
    student's copy, the rest anew. Call `update_teacher` after each optimiser step. Every class reads what is saved.
    """

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^head\."]
    _reads_training = True
    _keys_to_ignore_on_load_missing: ClassVar = [r"^teacher\."]

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self.masking = _section(config, "masking", MaskingConfig)
        encoder = self.encoder.config
        self.grid_size = (encoder.n_mels // encoder.patch_size, encoder.num_frames // encoder.patch_size)
        method = self._build_method()
        self.teacher, self.predictor, self.projection = method.teacher, method.predictor, method.projection
        # Not a submodule: it shares the ones above, which would be saved twice.
        object.__setattr__(self, "_method", method)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        visible: Tensor | None = None,
        queries: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> AaPEForPreTrainingOutput | tuple[Any, ...]:
        """Compute the losses on masked views of each clip.

        Args:
            input_values: see `encode`; at most the `num_frames` of the encoder.
            attention_mask: see `encode`.
            visible: sorted indices of the visible patches (B, M, V); drawn by inverse block masking if not given.
            queries: indices of the patches to predict (B, M, Q); drawn if not given.
            output_attentions: not available.
            output_hidden_states: not available.
            return_dict: False for a tuple.

        Raises:
            ValueError: longer clips, one of `visible` and `queries` without the other, or something is asked for that
                is not available.
        """
        self._refuse(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        x, valid_frames = self._prepare(input_values, attention_mask)
        patch, num_frames = self.encoder.patch_size, self.grid_size[1] * self.encoder.patch_size
        if x.shape[-1] > num_frames:
            raise ValueError(f"clips of {x.shape[-1]} frames, the most is {num_frames}: crop them")
        frames = x.new_ones(len(x), x.shape[-1]) if valid_frames is None else valid_frames.to(x.dtype)
        padding = (0, num_frames - x.shape[-1])
        x, frames = nn.functional.pad(x, padding), nn.functional.pad(frames, padding)  # (B, 1, F, T), (B, T)
        valid = frames.unflatten(1, (-1, patch)).amax(-1) > 0  # (B, Nt)
        valid = valid[:, None].expand(-1, self.grid_size[0], -1).flatten(1)  # (B, N)
        if visible is None and queries is None:
            visible, queries = self.draw_views(len(x))
        if visible is None or queries is None:
            raise ValueError("visible and queries belong together: give both or none")
        has_padding = self._method.loss_config.ignore_padding and not bool(valid.all())
        outputs = self._method(x, visible.to(x.device), queries.to(x.device), valid if has_padding else None)
        return self._as_asked(AaPEForPreTrainingOutput(**outputs), return_dict)

    def draw_views(self, num_clips: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw masks: indices of visible patches (B, M, V), and of those to predict (B, M, Q)."""
        views = [draw_views(self.grid_size, self.masking, generator) for _ in range(num_clips)]
        return torch.stack([visible for visible, _ in views]), torch.stack([queries for _, queries in views])

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher after an optimiser step: teacher = momentum * teacher + (1 - momentum) * student.

        Raises:
            ValueError: the weights are in half precision, where steps this small are rounded away.
        """
        if self.dtype.itemsize < 4:
            raise ValueError(f"a teacher in {self.dtype} never moves: train in float32, or bf16 by autocast")
        self._method.update_teacher(momentum)

    def _build_method(self) -> TeacherStudent:
        predictor, loss = _section(self.config, "predictor", PredictorConfig), _section(self.config, "loss", LossConfig)
        return TeacherStudent(self.encoder, self.grid_size, predictor, loss)

    def _fresh_part(self, name: str) -> nn.Module | None:
        if name == "teacher":
            return self.encoder
        return None if name == "encoder" else getattr(self._build_method(), name)


def _section(config: AaPEConfig, key: str, section: type[SectionT]) -> SectionT:
    """Read one of our dataclasses out of `config.training`."""
    values = dict(config.training.get(key) or {})
    if "statistics_min_patches" in values:  # the name in the shipped tiny
        values["min_prefix"] = values.pop("statistics_min_patches")
    known = [field.name for field in dataclasses.fields(section)]
    for name in values:
        if name not in known:
            raise CheckpointError(f"{CONFIG_NAME}: training: {ConfigError.unknown_key(name, known, key)}")
    try:
        return section(**values)
    except TypeError as error:
        raise CheckpointError(f"{CONFIG_NAME}: training.{key}: {error}") from error
