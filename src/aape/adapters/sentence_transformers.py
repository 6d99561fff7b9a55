"""A model as a module of sentence-transformers: `SentenceTransformer(modules=[AaPETransformer("tiny")])`.

Saved folders name it in `modules.json`, so that `SentenceTransformer(folder, trust_remote_code=True)` finds it.
Letters: B sounds, N = Nf * Nt patch tokens, D width, E length of a vector.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

try:
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    what = "aape.adapters.sentence_transformers needs sentence-transformers 5.4 or later"
    raise ImportError(f"{what}: pip install -U sentence-transformers") from error

from aape.errors import AudioError, ConfigError
from aape.inference import AudioModel
from aape.inference.encoding import spectrograms
from aape.inference.recordings import is_sequence, open_sounds
from aape.inference.segments import End, cutting, segments
from aape.models.companions import write_companions
from aape.models.config_file import CONFIG_NAME
from aape.models.origin import Origin
from aape.models.pooling import pool
from aape.models.revision import WEIGHTS_NAME, digest, state_revision
from aape.models.saved import find_model, read_model, save_model
from aape.runs.files import write_atomically

__all__ = ["AaPETransformer"]

_SOUND = "pass sounds, as paths, samples (samples,), or {'array': samples, 'sampling_rate': rate}"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class AaPETransformer(InputModule):
    """From sounds to the vectors of `aape.load_model(model).embed`, trainable.

    Args:
        model: a shipped model's name, a saved folder, or a run's folder.
        options: `pool`, `layers`, `loop_to` and `precision`, see `aape.load_model`.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: no such pool, block or precision, or `loop_to` is outside 0 to 600.
    """

    def __init__(self, model: str | os.PathLike[str] = "tiny", **options: Any) -> None:
        super().__init__()
        saved = read_model(model)
        options = {"loop_to": saved.loop_to, "pool": saved.pool, "layers": saved.layers} | options
        self.model = AudioModel(saved.encoder, saved.front_end, training=saved.training, **options)
        self.encoder = self.model.encoder  # so that `to` moves it
        self._saved, self._origin = saved, Origin(saved.card, saved.training, saved.encoder.state_dict())
        self._folder = find_model(model).absolute()
        self._revision = digest(self._folder)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **others: Any,
    ) -> AaPETransformer:
        """Load a folder or a repository of the Hub, as `SentenceTransformer` does.

        Args:
            model_name_or_path: the folder or repository.
            subfolder: in it.
            token: of the Hub, as are the next three.
            cache_folder: see there.
            revision: see there.
            local_files_only: see there.
            model_kwargs: options as above, and `dtype` (or `torch_dtype`) of the weights.
            backend: "torch".
            others: of other modules; they must be empty.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
            ConfigError: an option or a dtype that there is not.
        """
        hub = {"token": token, "cache_folder": cache_folder, "revision": revision, "local_files_only": local_files_only}
        options = dict(model_kwargs or {})
        dtypes = [_dtype(options.pop(name)) for name in ("dtype", "torch_dtype") if name in options]
        unknown = [*options.keys() - {"pool", "layers", "loop_to", "precision"}]
        unknown += [name for name in ("processor_kwargs", "config_kwargs") if others.get(name)]
        if unknown or backend != "torch":
            asked = ", ".join(sorted(unknown)) or f"backend {backend!r}"
            raise ConfigError(f"{asked}: this model takes model_kwargs of pool, layers, loop_to, precision and dtype")
        folder = cls.load_dir_path(model_name_or_path, subfolder, **hub)
        module = cls(model_name_or_path if folder is None else folder, **options)
        for dtype in filter(None, dtypes):
            module.to(dtype)
        return module

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write a folder that `aape.load_model` and transformers read, too.

        It is the model that was loaded, byte for byte, while weights and options are the same. Of a trained encoder,
        classifier and card are left out: they were those of other weights.
        """
        model, saved, tensors = self.model, self._saved, self.encoder.state_dict()
        use = {"pool": model.pool, "layers": model.layers, "loop_to": model.loop_to}
        is_unchanged = self._origin.is_unchanged(tensors)
        is_same = is_unchanged and all(value == getattr(saved, key) for key, value in use.items())
        if is_same and self._folder.is_dir() and digest(self._folder) == self._revision:
            _copy(self._folder, Path(output_path))
            return
        card, training = self._origin.facts(tensors, saved.card, saved.training)
        options: dict[str, Any] = {**use, "card": card, "training": training}
        if is_unchanged:
            options |= {"head": saved.head, "labels": saved.labels, "multi_label": saved.multi_label}
        save_model(output_path, model.encoder, model.front_end, **options)

    @property
    def modalities(self) -> list[Any]:
        """What `encode` lets through: a path whose ending it does not know, as .opus, is text, several kinds a message.

        Text that names no file is refused by `preprocess`.
        """
        return ["audio", "text", "message"]

    def get_embedding_dimension(self) -> int:
        """Return E."""
        return self.model.embed_dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, processing_kwargs: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Take sounds: samples (samples,) at the model's rate, or whatever else `AudioModel.embed` takes in a list.

        Returns:
            `input_values`: in `encode` recordings, which `forward` reads block by block, and their `names` in errors;
            else, for training, samples (B, samples) with zeros behind them, and `num_samples` (B,).

        Raises:
            AudioError: a sound cannot be used.
            ConfigError: a prompt, or options for a processor, which there is not.
        """
        if prompt or processing_kwargs:
            raise ConfigError("prompts and processing_kwargs: sound takes none; its rate comes with it, as in a dict")
        names = [f"clip {index} of its batch, longest first ({_kind(item)})" for index, item in enumerate(inputs)]
        rate = self.model.front_end.sample_rate
        items = [_recording(item, rate, name) for item, name in zip(inputs, names, strict=True)]
        if torch.is_inference_mode_enabled():
            return {"input_values": items, "names": names}
        sounds, _ = open_sounds(items, None, to_rate=rate, dtype=np.float32, names=names)
        waves = [torch.from_numpy(np.concatenate([*blocks])) for blocks in sounds]
        lengths = torch.tensor([len(wave) for wave in waves])
        return {"input_values": nn.utils.rnn.pad_sequence(waves, batch_first=True), "num_samples": lengths}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed what `preprocess` returned: adds `sentence_embedding` (B, E), in the dtype of the weights.

        Raises:
            AudioError: a sound cannot be used.
        """
        sounds, weights = features["input_values"], self.encoder.cls_token
        if isinstance(sounds, Tensor):
            vectors = self._embed_with_gradient(sounds, features["num_samples"])
        else:
            vectors = torch.from_numpy(np.stack([*self.model.embed_sounds(sounds, names=features["names"])]))
        return _Features(features | {"sentence_embedding": vectors.to(weights.device, weights.dtype)})

    def _embed_with_gradient(self, samples: Tensor, num_samples: Tensor) -> Tensor:
        """Embed samples (B, samples), of which the first `num_samples` (B,) are valid, all at once: (B, E)."""
        model, patch = self.model, self.encoder.patch_size
        cut, loop_to = cutting(model.front_end, patch), round(model.loop_to * model.front_end.sample_rate)
        waves = [wave[:length].cpu().numpy() for wave, length in zip(samples, num_samples.tolist(), strict=True)]
        pieces = [piece for row, wave in enumerate(waves) for piece in segments(row, [wave], cut, loop_to)]
        parts = [piece for piece in pieces if not isinstance(piece, End)]
        dtype = torch.promote_types(self.encoder.cls_token.dtype, torch.float32)
        tokens: list[Tensor] = [torch.empty(0)] * len(parts)
        for length in {part.padded for part in parts}:  # clips of one length at a time, so that nothing is padded
            places = [place for place, part in enumerate(parts) if part.padded == length]
            x = spectrograms([parts[place] for place in places], model.log_mel, samples.device, dtype)
            outputs = torch.stack(self.encoder.forward_layers(x, model.layers)).to(dtype).mean(0)  # (b, 1 + N, D)
            for place, output in zip(places, outputs, strict=True):
                tokens[place] = output
        num_freq = model.front_end.n_mels // patch
        vectors = []
        for row in range(len(waves)):
            consecutive = [output for part, output in zip(parts, tokens, strict=True) if part.row == row]
            vectors.append(pool(_joined(consecutive, num_freq)[None], model.pool, num_freq))
        return torch.cat(vectors)


class _Features(dict[str, Any]):
    """What `forward` returns; what is not in it is refused in one line."""

    def __missing__(self, key: str) -> Any:
        raise ConfigError(
            f"{key}: this model has sentence_embedding only; over time: aape.load_model(...).embed_frames"
        )


def _dtype(kind: Any) -> torch.dtype | None:
    """Return a dtype of weights by its name or itself, None for theirs."""
    if kind in (None, "auto"):
        return None
    dtype = getattr(torch, kind, None) if isinstance(kind, str) else kind
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype: expected {', '.join(map(str, _DTYPES))}, got {kind!r}")
    return dtype


def _copy(model: Path, folder: Path) -> None:
    """Copy a saved model into another folder; its card is written by others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        if not (folder / name).exists() or not (folder / name).samefile(model / name):
            write_atomically(folder / name, (model / name).read_bytes())
    write_companions(folder)
    state_revision(folder)


def _joined(parts: list[Tensor], num_freq: int) -> Tensor:
    """Return the tokens (1 + N, D) of consecutive pieces as those of one; of class tokens, the mean by length."""
    shares = torch.tensor([len(part) - 1 for part in parts]).to(parts[0])
    cls_token = (shares / shares.sum()) @ torch.stack([part[0] for part in parts])
    grid = torch.cat([part[1:].unflatten(0, (num_freq, -1)) for part in parts], 1)  # (Nf, Nt, D)
    return torch.cat([cls_token[None], grid.flatten(0, 1)])


def _recording(item: Any, rate: int, name: str) -> Any:
    """Return a recording as `AudioModel.embed` takes it; samples that do not bring their rate have `rate`."""
    if isinstance(item, Mapping) and [*item] == ["audio"]:  # a row of `datasets`, and how this tool writes a sound
        item = item["audio"]
    if isinstance(item, str) and not os.path.lexists(item):
        raise AudioError(item or "''", f"No such file, and this model takes no text: {_SOUND}")
    is_table = is_sequence(item) and hasattr(item, "dtype")
    if is_table or (isinstance(item, list) and any(isinstance(part, (str, os.PathLike)) for part in item)):
        raise AudioError(name, "several sounds where one is expected: pass one list of all, as list(column)")
    if isinstance(item, (list, numbers.Number)) or hasattr(item, "ndim"):
        if np.ndim(item) != 1:
            rule = "a list of sounds (samples,), or {'array': (channels, samples), 'sampling_rate': rate}"
            raise AudioError(name, f"of {np.ndim(item)} dimensions, and one sound has one: pass {rule}")
        return item, rate
    return item


def _kind(item: Any) -> str:
    """Say what a sound is, by which its owner may find it."""
    if isinstance(item, (bytes, bytearray)):
        return f"{len(item)} bytes"
    samples: Any = (
        item.get("array") if isinstance(item, Mapping) else item[0] if isinstance(item, tuple) and item else item
    )
    return f"{samples.shape[0]} samples" if getattr(samples, "ndim", 0) == 1 else type(item).__name__
