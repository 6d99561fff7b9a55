"""The encoder that mteb evaluates, MAEB's tasks included: `mteb.evaluate(AaPEEncoder("tiny"), tasks)`.

https://github.com/embeddings-benchmark/mteb. Letters: n clips, E of a vector.
"""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from aape.errors import CheckpointError, ConfigError, DataError
from aape.inference import load_model
from aape.inference.encoding import BATCH_SIZE
from aape.models.config_file import read_card
from aape.models.saved import find_model, memory_mb, read_model
from aape.models.saved import model_name as name_of
from aape.models.saved import revision as revision_of

if TYPE_CHECKING:
    from mteb.models import ModelMeta

__all__ = ["AaPEEncoder", "model_meta"]

_CITATION = """@misc{yamamoto2025aape,
  title = {AaPE: Aliasing-aware Patch Embedding for Self-Supervised Audio Representation Learning},
  author = {Yamamoto, K. and Okusa, K.},
  year = {2025},
  eprint = {2512.03637},
  archivePrefix = {arXiv},
  url = {https://arxiv.org/abs/2512.03637},
}"""


class AaPEEncoder:
    """A saved model as mteb's `EncoderProtocol`; its vectors are those of `aape.load_model(...).embed`.

    Args:
        model_name: a shipped model's name, a saved folder or a run's folder; or, with `folder`, what mteb calls it.
        revision: what `aape.models.saved.revision` of the model must be; None for any.
        device: None for the fastest, else as for `aape.load_model`.
        folder: where the model is, if `model_name` does not say so.
        options: `pool`, `layers`, `loop_to` or `precision` of `aape.load_model`; mteb keeps their results apart.

    Raises:
        CheckpointError: there is no such model, it is damaged, or has another revision.
        ConfigError: no such device, or an option that is out of range.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "tiny",
        revision: str | None = None,
        *,
        device: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._folder = find_model(model_name if folder is None else folder)
        self._name = f"aape/{name_of(model_name)}" if folder is None else os.fspath(model_name)
        self._revision = revision_of(self._folder)
        if revision not in (None, self._revision):
            raise CheckpointError(f"{self._folder}: its revision is {self._revision}, and {revision} was expected")
        self._options = options
        self.model = load_model(self._folder, device or "auto", **options)

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb and its leaderboard say of the model, see `model_meta`; an ImportError where mteb is missing."""
        try:
            from mteb.models import ModelMeta
            from mteb.types import Licenses
        except ImportError as error:
            raise ImportError(f"mteb's metadata of a model needs mteb: pip install mteb ({error})") from error
        saved = read_model(self._folder)
        card = read_card(saved.card, os.fspath(self._folder))
        count = sum(tensor.numel() for part in (saved.encoder, saved.head) if part for tensor in part.parameters())
        license = card.get("license", "").lower()
        return ModelMeta(
            loader=partial(AaPEEncoder, folder=self._folder),
            name=self._name,
            revision=self._revision,
            release_date=card.get("date"),
            languages=["zxx-Zxxx"],  # sound, of no language
            n_parameters=count,
            n_embedding_parameters=0,  # a vocabulary's
            memory_usage_mb=round(memory_mb(count)),
            max_tokens=None,
            embed_dim=self.model.embed_dim,
            license=license if license in typing.get_args(Licenses) else None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=set(card["datasets"]) if "datasets" in card else None,
            modalities=["audio"],
            citation=_CITATION,
            experiment_kwargs={key: value for key, value in self._options.items() if value is not None} or None,
        )

    def encode(
        self,
        inputs: Iterable[Any],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int = BATCH_SIZE,
        show_progress_bar: bool = False,
        precision: str | None = None,
    ) -> NDArray[np.float32]:
        """Embed the sounds of a loader.

        Args:
            inputs: batches, each a mapping whose "audio" is a list of clips as a list for `aape.load_model(...).embed`
                has them: mappings of "array" (samples,) or (channels, samples) and "sampling_rate", of "bytes" or
                "path", or decoders of torchcodec. A column `datasets.Audio()` is read by this package itself.
            task_metadata: names the task in errors.
            hf_split: of no influence, as are `hf_subset`, `prompt_type` and `show_progress_bar`.
            hf_subset: see there.
            prompt_type: see there.
            batch_size: the most spectrograms per forward pass; a CPU takes 12 s of sound.
            show_progress_bar: see there.
            precision: of the vectors, float32.

        Returns:
            Vectors (n, E), float32, in the loader's order.

        Raises:
            AudioError: a clip cannot be used; a file is named by its path, others by their number, from 0.
            ConfigError: another precision.
            DataError: a batch brings no audio.
        """
        if precision not in (None, "float32"):
            raise ConfigError(f"precision: vectors are float32, and {precision!r} was expected: quantise them yourself")
        clips = _clips(inputs, getattr(task_metadata, "name", "the loader"))
        vectors = list(self.model.embed_sounds(clips, batch_size=batch_size))
        return np.stack(vectors).astype(np.float32) if vectors else np.zeros((0, self.model.embed_dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each vector of (n, E) with each of (m, E): (n, m)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each pair of vectors of (n, E) and (n, E): (n,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


def model_meta(name_or_path: str | os.PathLike[str] = "tiny", name: str | None = None, **options: Any) -> ModelMeta:
    """Return mteb's `ModelMeta` of a saved model; `mteb.evaluate` takes it as it takes the model.

    It has what the card states, see `aape.models.saved.save_model`; a licence that mteb does not know is left out, and
    without `datasets` it is unknown what the model was trained on. The rest, such as `reference` and
    `public_training_code`, is set with `.model_copy(update={...})`.

    Args:
        name_or_path: a shipped model's name, a saved folder or a run's folder.
        name: its name as on the Hub, "organization/model"; by default "aape/" and the folder's or run's.
        options: as for `AaPEEncoder`.

    Raises:
        CheckpointError: there is no such model, it is damaged, or its card states what it cannot.
        ConfigError: an option that is out of range, or a name of another form.
    """
    if name is not None and "/" not in name:
        raise ConfigError(f"name: expected organization/model, got {name!r}")
    folder = None if name is None else name_or_path
    return AaPEEncoder(name_or_path if name is None else name, device="cpu", folder=folder, **options).mteb_model_meta


def _clips(loader: Iterable[Any], task: str) -> Iterator[Any]:
    """Yield the sounds of a loader."""
    for batch in _undecoded(loader):
        clips = batch.get("audio") if isinstance(batch, Mapping) else None
        if clips is None:
            what = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise DataError(f"{task}: no audio in its batches ({what}): this model embeds sound only")
        if not isinstance(clips, (list, tuple)):
            rule = "expected a list of clips: give the DataLoader a collate_fn that keeps them apart"
            raise DataError(f"{task}: audio: {rule}, got a {type(clips).__name__}")
        yield from map(_numbered, clips)


def _numbered(clip: Any) -> Any:
    """Return a clip that errors call by its number: the path beside samples is that of a file on another machine."""
    has_samples = isinstance(clip, Mapping) and any(clip.get(key) is not None for key in ("array", "bytes"))
    return {key: value for key, value in clip.items() if key != "path"} if has_samples else clip


def _undecoded(loader: Iterable[Any]) -> Iterable[Any]:
    """Return a loader whose `datasets.Audio` column is not decoded; one that `datasets` shall resample stays."""
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(loader, DataLoader) or not isinstance(loader.dataset, datasets.Dataset):
        return loader
    if loader.batch_sampler is None or loader.dataset.features.get("audio") != datasets.Audio():
        return loader
    dataset = loader.dataset.cast_column("audio", datasets.Audio(decode=False))
    options: dict[str, Any] = {"collate_fn": loader.collate_fn, "num_workers": loader.num_workers}
    return DataLoader(dataset, batch_sampler=loader.batch_sampler, **options)


def _unit(embeddings: Any) -> Tensor:
    """Return vectors of length 1, (n, E)."""
    return F.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=-1)
