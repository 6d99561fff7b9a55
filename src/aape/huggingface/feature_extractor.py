"""The front end of a model as a Hugging Face feature extractor."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from aape.data.log_mel import LogMel
from aape.errors import CheckpointError
from aape.huggingface.configuration import AaPEConfig
from aape.inference.recordings import open_sounds
from aape.models.companions import AUTO_MAP, CODE_NAME, write_companions
from aape.models.config_file import CONFIG_NAME, MAX_PATCH_FRAMES, read_front_end

_LOG = logging.get_logger(__name__)


class AaPEFeatureExtractor(SequenceFeatureExtractor):
    """Raw audio to the standardised log-mel that the model was trained with.

    `from_pretrained` reads the front end of the model's own `config.json`, so that the two cannot disagree.

    Args:
        front_end: fields of `aape.models.config.FrontEndConfig`; the others keep their defaults.
        patch_size: P of the encoder.
        kwargs: of `transformers.SequenceFeatureExtractor`.

    Raises:
        CheckpointError: an unknown field, or a value of another type or out of range.
    """

    model_input_names = ("input_values", "attention_mask")

    def __init__(self, front_end: dict[str, Any] | None = None, patch_size: int = 16, **kwargs: Any) -> None:
        settings = read_front_end(front_end or {}, CONFIG_NAME)
        if type(patch_size) is not int or not 1 <= patch_size <= MAX_PATCH_FRAMES:
            raise CheckpointError(f"patch_size: expected 1 to {MAX_PATCH_FRAMES} frames, got {patch_size!r}")
        derived = {"feature_size": settings.n_mels, "sampling_rate": settings.sample_rate, "padding_value": 0.0}
        auto_map = {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}
        super().__init__(**{**kwargs, **derived, "return_attention_mask": True, "auto_map": auto_map})
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

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoFeatureExtractor") -> None:
        """Do nothing: saved folders name this class, and hold no copy of its code."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """Write `preprocessor_config.json`, and what lets `trust_remote_code=True` read it."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        write_companions(save_directory, CODE_NAME)
        return files

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        *,
        padding: bool | str = True,
        truncation: bool | None = None,
        max_length: int | None = None,
    ) -> BatchFeature:
        """Make `input_values` (B, T, F) and `attention_mask` (B, T), zero-padded to whole patches of the longest clip.

        Args:
            raw_speech: mono samples (samples,), several of them (B, samples), a list of (samples,) of any lengths, or
                anything else that `AudioModel.embed` takes.
            sampling_rate: of the samples, in Hz; it must be the model's, and that of samples that bring their rate.
            return_tensors: as elsewhere in transformers, such as "pt" or "np".
            padding: True or "longest", the only way there is.
            truncation: not available.
            max_length: not available.

        Raises:
            AudioError: samples that cannot be used.
            ValueError: another sampling rate, other padding, or truncation.
        """
        if padding not in (True, "longest") or truncation or max_length is not None:
            asked = f"{padding=}, {truncation=}, {max_length=}"
            raise ValueError(f"{asked}: clips are padded to the longest and never cut: cut the samples before")
        if sampling_rate is None:
            _LOG.warning(f"sampling_rate was not given, and is taken to be {self.sampling_rate} Hz: pass it to be sure")
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            rates = f"the model was trained at {self.sampling_rate} Hz, the audio has {sampling_rate}"
            raise ValueError(f"{rates}: resample it")
        rate = self.sampling_rate
        sounds, _ = open_sounds(raw_speech, sampling_rate or rate, to_rate=rate, dtype=np.float32)
        log_mel = LogMel(**self.front_end)
        spectrograms = []
        for blocks in sounds:
            with torch.inference_mode():
                frames = log_mel(torch.from_numpy(np.concatenate(list(blocks)))[None])[0, 0]  # (F, T)
            spectrograms.append(frames.T.numpy())
        longest = max(map(len, spectrograms))
        shape = (len(spectrograms), longest + -longest % self.patch_size)
        values, mask = np.zeros((*shape, log_mel.n_mels), np.float32), np.zeros(shape, np.int64)
        for row, spectrogram in enumerate(spectrograms):
            values[row, : len(spectrogram)] = spectrogram
            mask[row, : len(spectrogram)] = 1
        return BatchFeature({"input_values": values, "attention_mask": mask}, tensor_type=return_tensors)
