"""The models as Hugging Face classes: configuration, encoder, classifier and feature extractor.

They read and write the same folders as `aape.models.saved` and hold the same modules; they add an interface and nothing
else.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BatchFeature, PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from aape.config import EncoderConfig, FrontEndConfig
from aape.data.arrays import read_array
from aape.data.frontend import LogMel
from aape.errors import AudioError, CheckpointError
from aape.models.encoder import AudioEncoder, pool
from aape.models.heads import ClassificationHead


class AaPEConfig(PretrainedConfig):
    """What `config.json` holds.

    Args:
        encoder: fields of `aape.config.EncoderConfig`; the others keep their defaults.
        front_end: fields of `aape.config.FrontEndConfig`, likewise.
        training: how the model was trained.
        kwargs: of `transformers.PretrainedConfig`.
    """

    model_type = "aape"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        front_end: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = dataclasses.asdict(EncoderConfig(**(encoder or {})))
        self.front_end = dataclasses.asdict(FrontEndConfig(**(front_end or {})))
        self.training = training or {}
        super().__init__(**kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written: both sections in full, also where they equal the defaults of this version."""
        sections = {"encoder": self.encoder, "front_end": self.front_end, "training": self.training}
        return {**super().to_diff_dict(), **sections}


class AaPEPreTrainedModel(PreTrainedModel):
    """What both models share: the encoder, which initialises itself."""

    config_class = AaPEConfig
    base_model_prefix = "aape"  # no module has that name: both models keep the encoder as `encoder`
    main_input_name = "input_values"
    _no_split_modules = ("Block",)

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self._is_built = False
        self.encoder = AudioEncoder(EncoderConfig(**config.encoder))

    def post_init(self) -> None:
        """Finish the construction."""
        super().post_init()
        self._is_built = True

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint did not hold: a new head, and never a part of the encoder.

        Raises:
            CheckpointError: it is the encoder that is incomplete.
        """
        if not self._is_built:
            return  # our modules have initialised themselves
        missing = [
            name
            for name, parameter in module.named_parameters(recurse=False)
            if not getattr(parameter, "_is_hf_initialized", False)
        ]
        path = next(name for name, part in self.named_modules() if part is module)
        if missing and path.partition(".")[0] != "head":
            raise CheckpointError(f"the checkpoint is incomplete: missing tensor {path}.{missing[0]}")
        if missing:
            self.head.init_weights()  # transformers keeps it from touching what was loaded


class AaPEModel(AaPEPreTrainedModel):
    """The encoder."""

    _keys_to_ignore_on_load_unexpected = (r"^head\.",)

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(self, input_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode spectrograms in one pass.

        Args:
            input_values: standardised log-mel (B, 1, F, T), as `AaPEFeatureExtractor` makes it.

        Returns:
            `last_hidden_state` (B, 1 + N, D), the class token first, patches frequency by frequency; `pooler_output`
            (B, 2D), class token and mean patch token.
        """
        tokens = self.encoder(input_values)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pool(tokens))


class AaPEForAudioClassification(AaPEPreTrainedModel):
    """The encoder, and LayerNorm and a linear layer on its class token (method 8)."""

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self.head = ClassificationHead(self.encoder.embed_dim, config.num_labels)
        self.post_init()

    def forward(self, input_values: Tensor, labels: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        """Classify spectrograms.

        Args:
            input_values: see `AaPEModel.forward`.
            labels: classes (B,) for cross-entropy, or targets in 0..1 (B, C) for binary cross-entropy.

        Returns:
            `logits` (B, C), and `loss` where labels are given.
        """
        logits = self.head(self.encoder(input_values))
        loss = None
        if labels is not None:
            is_multi_label = labels.ndim == 2
            criterion = (
                nn.functional.binary_cross_entropy_with_logits if is_multi_label else nn.functional.cross_entropy
            )
            loss = criterion(logits, labels.to(logits.dtype) if is_multi_label else labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class AaPEFeatureExtractor(SequenceFeatureExtractor):
    """Raw audio to the standardised log-mel that the model was trained with.

    `from_pretrained` reads the front end of the model's own `config.json`, so that the two cannot disagree.

    Args:
        front_end: fields of `aape.config.FrontEndConfig`; the others keep their defaults.
        patch_size: P of the encoder.
        kwargs: of `transformers.SequenceFeatureExtractor`.
    """

    model_input_names = ("input_values",)

    def __init__(self, front_end: dict[str, Any] | None = None, patch_size: int = 16, **kwargs: Any) -> None:
        settings = FrontEndConfig(**(front_end or {}))
        derived = {"feature_size": settings.n_mels, "sampling_rate": settings.sample_rate, "padding_value": 0.0}
        super().__init__(**{**kwargs, **derived, "return_attention_mask": False})
        self.front_end, self.patch_size = dataclasses.asdict(settings), patch_size

    @classmethod
    def get_feature_extractor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Find the settings of a model, or of a feature extractor that was saved by itself."""
        name = pretrained_model_name_or_path
        if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
            return super().get_feature_extractor_dict(name, **kwargs)
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        config = AaPEConfig.from_pretrained(name, **{key: kwargs.pop(key) for key in hub if key in kwargs})
        return {"front_end": config.front_end, "patch_size": config.encoder["patch_size"]}, kwargs

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = None, **_: Any
    ) -> BatchFeature:
        """Make `input_values` (B, 1, F, T), T zero-padded to whole patches.

        Args:
            raw_speech: mono samples (samples,), several of them (B, samples), or a list of (samples,). All must have
                the same number of patches: padding a clip to the length of another would change what it means.
            sampling_rate: of the samples, in Hz; it must be the model's.
            return_tensors: as elsewhere in transformers, such as "pt" or "np".

        Raises:
            AudioError: samples that cannot be used.
            ValueError: another sampling rate, or clips of different lengths.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the model was trained at {self.sampling_rate} Hz, the audio has {sampling_rate}: resample it"
            )
        is_list = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        log_mel = LogMel(**self.front_end)
        spectrograms = []
        for clip in raw_speech if is_list else [raw_speech]:
            waves = read_array(clip, self.sampling_rate, to_rate=self.sampling_rate)
            if is_list and np.ndim(clip) != 1:
                raise AudioError("array", f"of shape {np.shape(clip)}: a list is made of clips (samples,)")
            with torch.inference_mode():
                frames = log_mel(torch.from_numpy(waves))  # (B, 1, F, T)
                spectrograms.append(nn.functional.pad(frames, (0, -frames.shape[-1] % self.patch_size)))
        lengths = {spectrogram.shape[-1] for spectrogram in spectrograms}
        if len(lengths) > 1:
            raise ValueError(f"clips of {sorted(lengths)} frames cannot share a batch: pass one length at a time")
        return BatchFeature({"input_values": torch.cat(spectrograms).numpy()}, tensor_type=return_tensors)
