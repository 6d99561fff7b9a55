"""How the models are read from a folder, and written into one that loads by itself; nothing is trusted either way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from aape.errors import CheckpointError
from aape.huggingface.card import model_card
from aape.huggingface.configuration import AaPEConfig
from aape.models.companions import write_companions
from aape.models.config_file import CONFIG_NAME, read_card, read_head_pool, read_loop_to, read_mapping, read_pooling
from aape.models.origin import Origin
from aape.models.revision import CARD_NAME, digest, state_revision
from aape.models.saved import WEIGHTS_NAME, check_values, model_name, open_weights

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PUSH_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")


class FolderModel(PreTrainedModel):
    """A model whose modules initialise themselves, and whose checkpoints are whole."""

    config_class = AaPEConfig
    base_model_prefix = "aape"  # no module has that name: all models keep the encoder as `encoder`
    _reads_training = False  # as options of its own, which more training does not change

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self._is_built = False
        self._fresh: dict[str, set[str]] = {}  # tensors that no checkpoint held, by the part they are of
        # A configuration that was read from a folder came with other weights than these, until they are loaded, too.
        self._origin = Origin(config.card, config.training, {}) if config.name_or_path else None

    def post_init(self) -> None:
        """Finish the construction."""
        super().post_init()
        self._is_built = True
        self._fixed = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model as transformers does; what is not trained, such as fixed positions, stays untrained.

        Raises:
            CheckpointError: the weights are damaged or not finite, a tensor is missing, unless a whole part such as the
                head is and starts anew, or there is one that no class knows.
            ValueError: a dtype that no model computes in.
        """
        name, dtype = pretrained_model_name_or_path, kwargs.get("dtype")
        dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype not in _DTYPES:
            raise ValueError(f"no model computes in {dtype}: take dtype=torch.float16, torch.bfloat16 or torch.float32")
        with_info = kwargs.pop("output_loading_info", False)
        try:
            options = {"use_safetensors": True, **kwargs, "output_loading_info": True}
            model, info = super().from_pretrained(name, *args, **options)
        except SafetensorError as error:
            if (path := Path(name or "") / WEIGHTS_NAME).is_file():
                open_weights(path)  # says more
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{name}: not a safetensors file, or damaged ({reason})") from error
        model._check_loaded(os.fspath(name or "weights"), info)
        model._note_origin()
        for name in model._fixed:
            model.get_parameter(name).requires_grad_(False)
        return (model, info) if with_info else model

    def _check_loaded(self, where: str, info: dict[str, Any]) -> None:
        """Refuse what transformers would only log."""
        unexpected = sorted(info["unexpected_keys"])
        if unexpected:
            more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
            raise CheckpointError(f"{where}: unexpected tensor {unexpected[0]}{more}")
        values = self.state_dict()
        for part, fresh in self._fresh.items():
            missing = fresh & values.keys() - {entry[0] for entry in info["mismatched_keys"]}
            if missing and any(name not in fresh for name in values if name.startswith(f"{part}.")):
                raise CheckpointError(f"{where}: incomplete: missing tensor {min(missing)}")
        check_values({name: tensor for name, tensor in values.items() if not tensor.is_meta}, where)

    def _note_origin(self) -> None:
        """Remember which weights the card is of; scores of a classifier are not those of its encoder."""
        config, fresh = self.config, set().union(*self._fresh.values())
        if not hasattr(self, "head") and (config.architectures or [""])[0] == "AaPEForAudioClassification":
            config.card = {key: value for key, value in config.card.items() if key != "scores"}
        loaded = {name: t for name, t in self.state_dict().items() if not t.is_meta and name not in fresh}
        self._origin = Origin(config.card, config.training, loaded) if config.card or config.training else None

    def _keep_facts(self, tensors: Mapping[str, Tensor]) -> None:
        """Remove from the configuration what was known of other weights than these."""
        if self._origin is not None:
            config = self.config
            config.card, training = self._origin.facts(tensors, config.card, config.training)
            config.training = config.training if self._reads_training else training

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: saved folders name this class, and hold no copy of its code."""

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write a folder that loads by itself, read it again, and compare it bit by bit.

        It holds the model, what other tools ask for, and a model card; of one that is there, only the revision changes,
        if it states one. Where the weights were changed, `config.card` is emptied unless it was set since loading, and
        `config.training` becomes {"pretraining": ...}. Options are transformers'.

        Raises:
            CheckpointError: a weight has no value or is not finite, `config.card` has a key or value that is none, or
                other weights were written than these.
        """
        settings = vars(self.config)
        read_card(self.config.card, CONFIG_NAME)
        read_mapping(settings, "training", CONFIG_NAME)
        read_loop_to(self.config.loop_to, CONFIG_NAME)
        read_head_pool(self.config.head_pool, CONFIG_NAME)
        read_pooling(settings, self.config.num_hidden_layers, CONFIG_NAME)
        if push_to_hub:
            name = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(name, **{key: kwargs.pop(key) for key in _PUSH_OPTIONS if key in kwargs})
        values = self.state_dict() if state_dict is None else state_dict
        check_values(values, os.fspath(save_directory))
        self._keep_facts(values)
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if not is_main_process:
            return
        with_adapters = getattr(self, "_hf_peft_config_loaded", False)  # they are all that is written then
        if not with_adapters:
            _compare_saved(Path(save_directory), values, kwargs.get("variant"))
        write_companions(save_directory)
        folder = Path(save_directory)
        if not (folder / CARD_NAME).exists():
            revision = None if with_adapters else digest(folder)
            card = model_card(self.config, self.num_parameters(), name=model_name(folder), revision=revision)
            (folder / CARD_NAME).write_text(card, encoding="utf-8")
        elif not with_adapters:
            state_revision(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **save_options: Any,
    ) -> str:
        """Upload model, feature extractor and model card; of a card that is there, only the revision changes.

        Options mean what they mean elsewhere in transformers, and `save_options` are those of `save_pretrained`. The
        repository is made if needed.

        Returns:
            Where the upload can be seen.

        Raises:
            CheckpointError: see `save_pretrained`; nothing is uploaded.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as parent:
            folder = os.path.join(parent, repo_id.rpartition("/")[2])  # the card's name of the model
            if api.file_exists(repo_id, CARD_NAME, revision=revision):
                api.hf_hub_download(repo_id, CARD_NAME, revision=revision, local_dir=folder)
            self.save_pretrained(folder, **save_options)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
            )
        return str(commit)

    def _fresh_part(self, name: str) -> nn.Module | None:
        """Return what a part starts from that a checkpoint does not hold; None for what it must hold."""
        return None

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what a checkpoint did not hold: a new head, and never a part of the encoder."""
        if not self._is_built:
            return  # our modules have initialised themselves
        missing = list(_uninitialised(module, recurse=False))
        if not missing:
            return
        path = next(name for name, part in self.named_modules() if part is module)
        name = path.partition(".")[0]
        source = self._fresh_part(name)
        if source is None:
            where = self.config.name_or_path or "the checkpoint"
            raise CheckpointError(f"{where}: incomplete or of other shapes: missing tensor {path}.{missing[0]}")
        values = {**dict(source.named_parameters()), **dict(source.named_buffers())}
        for key, tensor in _uninitialised(getattr(self, name)).items():
            tensor.data.copy_(values[key])
            tensor._is_hf_initialized = True
            self._fresh.setdefault(name, set()).add(f"{name}.{key}")


def _uninitialised(module: nn.Module, recurse: bool = True) -> dict[str, Any]:
    """Return the parameters and buffers that no checkpoint has filled, by name."""
    tensors = [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]
    return {name: tensor for name, tensor in tensors if not getattr(tensor, "_is_hf_initialized", False)}


def _compare_saved(folder: Path, tensors: Mapping[str, Tensor], variant: str | None) -> None:
    """Read the weights that were just written, in one file or several, and compare them bit by bit."""
    stem = f"model.{variant}" if variant else "model"
    whole, shards = folder / f"{stem}.safetensors", sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if shards:
        whole.unlink(missing_ok=True)  # of a model that was here before, and which would be read instead
    else:
        (folder / f"{stem}.safetensors.index.json").unlink(missing_ok=True)
    there: dict[str, Tensor] = {}
    for path in shards or [whole]:
        try:
            there |= load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a safetensors file, or damaged: save it again") from error
    different = sorted(there.keys() ^ tensors.keys()) or [
        name for name, tensor in tensors.items() if not _is_same(there[name], tensor.detach().cpu())
    ]
    if different:
        raise CheckpointError(f"{folder}: {different[0]}: the file holds something else than was saved: save it again")


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors have the same bits."""
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
