"""The models as Hugging Face classes: encoder and classifier.

Configuration and feature extractor are in `configuration`, `AaPEForPreTraining` in `pretraining`. All read and write
the folders of `aape.models.saved` and hold the same modules; they add an interface and nothing else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import ModelOutput, logging

from aape.huggingface.classification_loss import classification_loss
from aape.huggingface.configuration import AaPEConfig
from aape.huggingface.folders import FolderModel
from aape.models.config_file import CONFIG_NAME, read_head_pool, read_loop_to, read_pooling, read_sections
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.pooling import pool

_LOG = logging.get_logger(__name__)
_PIPELINES_READ_PROBLEM = Version(transformers.__version__) >= Version("5.23")


@dataclass
class AaPEModelOutput(BaseModelOutputWithPooling):  # type: ignore[misc, unused-ignore]
    """What an encoder gives; `attention_mask` (B, 1 + N) is that of its tokens."""

    attention_mask: Tensor | None = None


@dataclass
class AaPEClassifierOutput(SequenceClassifierOutput):  # type: ignore[misc, unused-ignore]
    """What a classifier gives; `attention_mask` (B, 1 + N) comes with `hidden_states`."""

    attention_mask: Tensor | None = None


class AaPEPreTrainedModel(FolderModel):
    """What all models share: the encoder, and what it makes of a batch."""

    main_input_name = "input_values"
    _no_split_modules = ("Block",)
    supports_gradient_checkpointing = True

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        # Again, because options of from_pretrained are set on a finished configuration.
        self.encoder = AudioEncoder(read_sections(vars(config), CONFIG_NAME)[0])
        self.pool, self.layers = read_pooling(vars(config), len(self.encoder.blocks), CONFIG_NAME)
        read_loop_to(config.loop_to, CONFIG_NAME)

    def encode(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode spectrograms, each in one pass; padding has no influence on anything.

        Args:
            input_values: standardised log-mel (B, T, F), as `AaPEFeatureExtractor` makes it, or (B, 1, F, T), of any
                dtype: a model in half precision computes best from float32.
            attention_mask: which frames are valid (B, T), the first ones, of any dtype; None for all.

        Returns:
            In the model's dtype: tokens (B, 1 + N, D), the class token first, patches frequency by frequency, those of
            padding the mean of the clip's; and the vectors that the configuration recommends, `pool` of `layers`
            (B, E).

        Raises:
            ValueError: another shape, a clip without frames, NaN or infinite values, or valid frames behind padding.
        """
        outputs = self._encode(input_values, attention_mask, False)
        return outputs["last_hidden_state"], outputs["pooler_output"]

    def _encode(self, input_values: Tensor, attention_mask: Tensor | None, with_hidden: bool) -> dict[str, Any]:
        """Return what the models for use give, by name."""
        x, valid = self._prepare(input_values, attention_mask)
        patch = self.encoder.patch_size
        num_freq, num_time = -(-x.shape[2] // patch), -(-x.shape[3] // patch)
        if valid is None:
            counts = torch.full((len(x),), num_time, device=x.device)
            states, read = self._encode_group(x, with_hidden)
        else:
            counts = -(-valid.sum(1) // patch)  # time patches of each clip (B,)
            groups, all_states, all_read = [], [], []
            for count in counts.unique().tolist():  # clips of one length at a time: none sees another's padding
                rows = (counts == count).nonzero()[:, 0]
                states, read = self._encode_group(x[rows, ..., : count * patch], with_hidden)
                grid = states[:, :, 1:].unflatten(2, (num_freq, count))  # (S, b, Nf, Nt, D)
                # A mean over all tokens is right, too: some tools take it, whatever the mask says.
                padding = states.mean(2)[:, :, None, None].expand(-1, -1, num_freq, num_time - count, -1)
                padded = torch.cat([grid, padding], 3).flatten(2, 3)
                groups.append(rows)
                all_states.append(torch.cat([states[:, :, :1], padded], 2))
                all_read.append(read)
            order = torch.cat(groups).argsort()
            states = torch.cat(all_states, 1)[:, order]
            read = {name: torch.cat([part[name] for part in all_read])[order] for name in read}
        is_valid = torch.arange(num_time, device=x.device) < counts[:, None]  # (B, Nt)
        mask = nn.functional.pad(is_valid[:, None].expand(-1, num_freq, -1).flatten(1), (1, 0), value=True).long()
        return {
            "last_hidden_state": states[-1],
            "hidden_states": tuple(states) if with_hidden else None,
            "attention_mask": mask,
            **read,
        }

    def _encode_group(self, x: Tensor, with_hidden: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode spectrograms (B, 1, F, T) without padding.

        Returns:
            S hidden states, or the last, (S, B, 1 + N, D), and what is read off them: `pooler_output` (B, E), and of a
            classifier `logits` (B, C).
        """
        depth, layers = len(self.encoder.blocks), self.layers
        if with_hidden:
            states = self.encoder.forward_hidden(x)
            outputs = [self.encoder.norm(states[layer]) for layer in sorted({*layers, depth})]
        else:
            states, outputs = [], self.encoder.forward_layers(x, {*layers, depth})
        chosen = outputs if depth in layers else outputs[:-1]
        vectors = pool(torch.stack(chosen).mean(0), self.pool, -(-x.shape[2] // self.encoder.patch_size))
        read = {"pooler_output": vectors}
        if hasattr(self, "head"):
            read["logits"] = self.head(outputs[-1])
        return torch.stack([*states[:-1], outputs[-1]]), read

    def _prepare(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return spectrograms (B, 1, F, T), zero in padding, and the valid frames (B, T), None where all are.

        They are float32 at least, from which the stem computes in half precision too, as under autocast.
        """
        if not isinstance(input_values, Tensor):
            raise TypeError('input_values must be a tensor: the extractor makes one with return_tensors="pt"')
        n_mels = self.encoder.config.n_mels
        x = input_values.transpose(1, 2).unsqueeze(1) if input_values.ndim == 3 else input_values
        if x.ndim != 4 or x.shape[1:3] != (1, n_mels) or 0 in x.shape or x.is_complex():
            shapes = f"(B, T, {n_mels}) or (B, 1, {n_mels}, T)"
            raise ValueError(f"input_values must be {shapes}, not {tuple(input_values.shape)} of {x.dtype}")
        is_eager = not torch.compiler.is_compiling()  # what looks at values would break the graph
        if is_eager and not _has_products(self.dtype, self.device):
            raise ValueError(f"{self.device} cannot compute in {self.dtype}: load the model with dtype=torch.float32")
        x = x.to(torch.promote_types(self.dtype, torch.float32))
        if attention_mask is not None:
            x, attention_mask = self._without_padding(x, attention_mask)
        is_finite = x.isfinite().flatten(1).all(1)
        if is_eager and not bool(is_finite.all()):
            raise ValueError(f"input_values: NaN or infinite values in clip {int((~is_finite).nonzero()[0])}")
        return x, attention_mask

    def _without_padding(self, x: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return spectrograms that are zero in padding, and the valid frames, None where all are."""
        valid = attention_mask.bool()
        if valid.shape != (x.shape[0], x.shape[3]):
            raise ValueError(f"attention_mask must be (B, T), {(x.shape[0], x.shape[3])}, not {tuple(valid.shape)}")
        if not bool(valid[:, 0].all()):
            raise ValueError("attention_mask: a clip without frames, or padding before its frames: it must be behind")
        if bool((valid[:, 1:] & ~valid[:, :-1]).any()):
            raise ValueError("attention_mask: padding between the frames of a clip: it must be behind them")
        if bool(valid.all()):
            return x, None
        return x.masked_fill(~valid[:, None, None], 0), valid

    def _is_asked(self, name: str, value: bool | None) -> bool:
        """Say whether a call, or else the configuration, asks for something."""
        return bool(getattr(self.config, name, False) if value is None else value)

    def _refuse(self, **outputs: bool | None) -> None:
        """Refuse what is asked for and is not there to be given."""
        for name, value in outputs.items():
            if self._is_asked(name, value):
                raise ValueError(f"{name}: not available from this model")

    def _as_asked(self, outputs: ModelOutput, return_dict: bool | None) -> Any:
        """Return outputs, or the tuple of them where the call or the configuration asks for that."""
        return outputs if (self.config.return_dict if return_dict is None else return_dict) else outputs.to_tuple()


@functools.cache
def _has_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether a device has what a block computes, in a dtype."""
    if dtype in (torch.float32, torch.float64):
        return True
    try:
        x = torch.ones(2, 2, dtype=dtype, device=device)
        nn.functional.gelu(nn.functional.layer_norm(x @ x, (2,))).softmax(-1)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True


class _EncoderUser(AaPEPreTrainedModel):
    """The call that the models for use share."""

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode or classify spectrograms.

        Args:
            input_values: see `encode`.
            attention_mask: see `encode`.
            labels: of a classifier only, as `problem_type` of the configuration says: classes (B,), targets in 0..1
                (B, C), or for a regression numbers (B,) or (B, C).
            output_attentions: not available.
            output_hidden_states: return the embeddings and what each block makes of them, too.
            return_dict: False for a tuple.

        Returns:
            Of an encoder `last_hidden_state` (B, 1 + N, D), the class token first, patches frequency by frequency,
            those of padding the mean of the clip's; `pooler_output` (B, E), the vectors that the configuration
            recommends; and `attention_mask` (B, 1 + N), 1 for the class token and patches of the clip, 0 for those of
            padding. Of a classifier `logits` (B, C), and `loss` where labels are given. `hidden_states`, and with them
            the mask of a classifier, where asked for: 1 + depth tensors (B, 1 + N, D), of which the last has passed the
            final norm and is `last_hidden_state`, and the others have not.

        Raises:
            ValueError: another shape, a clip without frames, NaN or infinite values, labels that do not fit, or
                something is asked for that is not available.
        """
        self._refuse(output_attentions=output_attentions)
        with_hidden = self._is_asked("output_hidden_states", output_hidden_states)
        if labels is not None and not hasattr(self, "head"):
            raise ValueError("labels: an encoder has no classes; load it with AutoModelForAudioClassification")
        encoded = self._encode(input_values, attention_mask, with_hidden)
        return self._as_asked(self._outputs(encoded, labels), return_dict)

    def _outputs(self, encoded: dict[str, Any], labels: Tensor | None) -> ModelOutput:
        raise NotImplementedError


class AaPEModel(_EncoderUser):
    """The encoder."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^(head|teacher|predictor|projection)\."]

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self.post_init()

    def _outputs(self, encoded: dict[str, Any], labels: Tensor | None) -> ModelOutput:
        return AaPEModelOutput(**encoded)


class AaPEForAudioClassification(_EncoderUser):
    """The encoder, and LayerNorm and a linear layer on its class token (docs/method.md 8), or on another vector."""

    _keys_to_ignore_on_load_unexpected: ClassVar = [r"^(teacher|predictor|projection)\."]

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        if config.num_labels == 1 and config.problem_type in (None, "single_label_classification"):
            config.problem_type = "regression"  # as transformers has it: one output names no classes
        self.head = self._new_head()
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as `AaPEModel.from_pretrained` does, and warn where pipelines would read its scores wrongly."""
        loaded = super().from_pretrained(*args, **kwargs)
        problem = (loaded[0] if isinstance(loaded, tuple) else loaded).config.problem_type
        function = {"multi_label_classification": "sigmoid", "regression": "none"}.get(problem)
        if function and not _PIPELINES_READ_PROBLEM:
            advice = f"pass function_to_apply={function!r} in each call"
            _LOG.warning(f"before transformers 5.23, pipelines take a softmax, also of a {problem}: {advice}")
        return loaded

    def _outputs(self, encoded: dict[str, Any], labels: Tensor | None) -> ModelOutput:
        logits = encoded["logits"]
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        hidden = encoded["hidden_states"]
        mask = None if hidden is None else encoded["attention_mask"]
        return AaPEClassifierOutput(loss=loss, logits=logits, hidden_states=hidden, attention_mask=mask)

    def _fresh_part(self, name: str) -> nn.Module | None:
        return self._new_head() if name == "head" else None

    def _new_head(self) -> ClassificationHead:
        num_freq = self.encoder.stem.grid_size[0]
        head_pool = read_head_pool(self.config.head_pool, CONFIG_NAME)  # again, as above
        return ClassificationHead(self.encoder.embed_dim, self.config.num_labels, head_pool, num_freq)
