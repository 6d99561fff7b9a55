"""The front end of a model as a Hugging Face feature extractor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import logging

from aape.data.log_mel import LogMel
from aape.errors import AudioError, CheckpointError
from aape.huggingface.configuration import AaPEConfig
from aape.inference.recordings import open_sounds
from aape.inference.segments import loop
from aape.models.companions import AUTO_MAP, CODE_NAME, write_companions
from aape.models.config_file import CONFIG_NAME, MAX_PATCH_FRAMES, read_front_end, read_loop_to

_LOG = logging.get_logger(__name__)


class AaPEFeatureExtractor(FeatureExtractionMixin):
    """Raw audio, looped as the model was trained to have it, to its standardised log-mel.

    `from_pretrained` reads the front end of the model's own `config.json`, so that the two cannot disagree.

    Args:
        front_end: fields of `aape.models.config.FrontEndConfig`; the others keep their defaults.
        patch_size: P of the encoder.
        loop_to: length in seconds that shorter sounds are looped to; None or 0: nothing is looped.
        kwargs: of `transformers.FeatureExtractionMixin`.

    Raises:
        CheckpointError: an unknown field, or a value of another type or out of range.
    """

    model_input_names = ("input_values", "attention_mask")

    def __init__(
        self,
        front_end: dict[str, Any] | None = None,
        patch_size: int = 16,
        loop_to: float | None = None,
        **kwargs: Any,
    ) -> None:
        settings = read_front_end(front_end or {}, CONFIG_NAME)
        if type(patch_size) is not int or not 1 <= patch_size <= MAX_PATCH_FRAMES:
            raise CheckpointError(f"patch_size: expected 1 to {MAX_PATCH_FRAMES} frames, got {patch_size!r}")
        super().__init__(**kwargs)
        self.feature_size, self.sampling_rate = settings.n_mels, settings.sample_rate
        # What pipelines pad the batches with that they make of single clips.
        self.padding_value, self.padding_side, self.return_attention_mask = 0.0, "right", True
        self.auto_map = {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]}
        self.front_end, self.patch_size = dataclasses.asdict(settings), patch_size
        self.loop_to = read_loop_to(loop_to, CONFIG_NAME)

    @classmethod
    def get_feature_extractor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Find the settings of a model, or of a feature extractor that was saved by itself."""
        name = pretrained_model_name_or_path
        if os.path.isdir(name) and not os.path.isfile(os.path.join(name, CONFIG_NAME)):
            values, kwargs = super().get_feature_extractor_dict(name, **kwargs)
            if "front_end" not in values:  # a saved model's file, whose front end is in the file beside it
                raise CheckpointError(f"{name}: no {CONFIG_NAME} in it: copy the model's whole folder")
            return values, kwargs
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        config = AaPEConfig.from_pretrained(name, **{key: kwargs.pop(key) for key in hub if key in kwargs})
        options = {"patch_size": config.encoder["patch_size"], "loop_to": config.loop_to}
        return {"front_end": config.front_end, **options}, kwargs

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
        return_attention_mask: bool | None = None,
    ) -> BatchFeature:
        """Make `input_values` (B, T, F) and `attention_mask` (B, T), zero-padded to whole patches of the longest clip.

        Args:
            raw_speech: mono samples (samples,), several of them (B, samples), a list of (samples,) of any lengths, or
                anything else that `AudioModel.embed` takes.
            sampling_rate: of the samples, in Hz; it must be the model's, and that of samples that bring their rate. If
                not given, files and samples that bring their rate are resampled.
            return_tensors: as elsewhere in transformers, such as "pt" or "np".
            padding: True or "longest", the only way there is.
            truncation: not available.
            max_length: not available.
            return_attention_mask: None or True, as it always is.

        Raises:
            AudioError: samples that cannot be used.
            ValueError: another sampling rate, other padding, or truncation.
        """
        if return_attention_mask is False:
            raise ValueError("return_attention_mask=False: without the mask, padding would count as sound")
        if padding not in (True, "longest") or truncation or max_length is not None:
            asked = f"{padding=}, {truncation=}, {max_length=}"
            raise ValueError(f"{asked}: clips are padded to the longest and never cut: cut the samples before")
        rate = self.sampling_rate
        if sampling_rate not in (None, rate):
            raise ValueError(f"the model was trained at {rate} Hz, the audio has {sampling_rate}: resample it")
        try:
            sounds, _ = open_sounds(raw_speech, sampling_rate, to_rate=rate, dtype=np.float32)
        except AudioError:
            if sampling_rate is not None:
                raise
            _LOG.warning(f"sampling_rate was not given, and is taken to be {rate} Hz: pass it to be sure")
            sounds, _ = open_sounds(raw_speech, rate, to_rate=rate, dtype=np.float32)
        log_mel = LogMel(**self.front_end)
        spectrograms = []
        for sound in sounds:
            blocks, _ = loop(sound, round(self.loop_to * rate))
            with torch.inference_mode():
                frames = log_mel(torch.from_numpy(np.concatenate(list(blocks)))[None])[0, 0]  # (F, T)
            spectrograms.append({"input_values": frames.T.numpy()})
        return self.pad(spectrograms, return_tensors=return_tensors)

    def pad(
        self,
        processed_features: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        return_tensors: str | None = None,
        **unused: None,
    ) -> BatchFeature:
        """Make a batch of the features of clips, as `DataCollatorWithPadding(extractor)` does.

        Args:
            processed_features: a mapping for each clip, or one of lists: `input_values` (T, F), and if it has been
                padded before, `attention_mask` (T,); other keys, such as labels, are stacked.
            padding: True or "longest", the only way there is.
            return_tensors: as elsewhere in transformers.
            unused: other options of collators, None.

        Raises:
            ValueError: no clips, spectrograms of other shapes, or other options.
        """
        if padding not in (True, "longest") or any(value is not None for value in unused.values()):
            raise ValueError(f"{padding=}, {unused}: clips are padded to the longest and never cut")
        if isinstance(processed_features, Mapping):
            rows = [
                dict(zip(processed_features, row, strict=True))
                for row in zip(*processed_features.values(), strict=True)
            ]
        else:
            rows = [dict(row) for row in processed_features]
        spectrograms = [np.asarray(row.pop("input_values"), np.float32) for row in rows]
        if not rows or any(x.ndim != 2 or x.shape[1] != self.feature_size for x in spectrograms):
            shapes = ", ".join(str(x.shape) for x in spectrograms) or "no clips"
            raise ValueError(f"input_values of each clip must be (T, {self.feature_size}), got {shapes}")
        longest = max(map(len, spectrograms))
        shape = (len(spectrograms), longest + -longest % self.patch_size)
        values, mask = np.zeros((*shape, self.feature_size), np.float32), np.zeros(shape, np.int64)
        for row, spectrogram in enumerate(spectrograms):
            values[row, : len(spectrogram)] = spectrogram
            mask[row, : len(spectrogram)] = rows[row].pop("attention_mask", 1)
        others = {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]}
        batch = {"input_values": values, "attention_mask": mask, **others}
        return BatchFeature(batch, tensor_type=return_tensors)
