"""The models as Hugging Face classes: encoder and classifier.

Configuration and feature extractor are in `configuration`, `AaPEForPreTraining` in `pretraining`. All read and write
the folders of `aape.models.saved` and hold the same modules; they add an interface and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils import ModelOutput

from aape.errors import CheckpointError
from aape.huggingface.card import model_card, with_revision
from aape.huggingface.classification_loss import classification_loss
from aape.huggingface.configuration import AaPEConfig
from aape.models.companions import write_companions
from aape.models.config_file import CONFIG_NAME, read_card, read_pooling, read_sections
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.pooling import pool
from aape.models.saved import WEIGHTS_NAME, model_name
from aape.models.saved import revision as revision_of

_PUSH_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")


class AaPEPreTrainedModel(PreTrainedModel):
    """What all models share: the encoder, which initialises itself, and how a folder is written."""

    config_class = AaPEConfig
    base_model_prefix = "aape"  # no module has that name: all models keep the encoder as `encoder`
    main_input_name = "input_values"
    _no_split_modules = ("Block",)
    supports_gradient_checkpointing = True

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self._is_built = False
        # Again, because options of from_pretrained are set on a finished configuration.
        self.encoder = AudioEncoder(read_sections(vars(config), CONFIG_NAME)[0])
        self.pool, self.layers = read_pooling(vars(config), len(self.encoder.blocks), CONFIG_NAME)

    def post_init(self) -> None:
        """Finish the construction."""
        super().post_init()
        self._is_built = True
        self._fixed = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as transformers does; what is not trained, such as fixed positions, stays untrained."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        for name in model._fixed:
            model.get_parameter(name).requires_grad_(False)
        return loaded

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: saved folders name this class, and hold no copy of its code."""

    def encode(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode spectrograms, each in one pass; padding has no influence on anything.

        Args:
            input_values: standardised log-mel (B, T, F), as `AaPEFeatureExtractor` makes it, or (B, 1, F, T), of any
                dtype: a model in half precision computes best from float32.
            attention_mask: which frames are valid (B, T), the first ones, of any dtype; None for all.

        Returns:
            In the model's dtype: tokens (B, 1 + N, D), the class token first, patches frequency by frequency, zeros for
            those of padding; and the vectors that the configuration recommends, `pool` of `layers` (B, E).

        Raises:
            ValueError: another shape, a clip without frames, or valid frames behind padding.
        """
        x, valid = self._prepare(input_values, attention_mask)
        if valid is None:
            return self._encode_group(x)
        patch = self.encoder.patch_size
        counts = -(-valid.sum(1) // patch)  # time patches of each clip (B,)
        num_freq, num_time = -(-x.shape[2] // patch), -(-x.shape[3] // patch)
        groups, all_tokens, all_pooled = [], [], []
        for count in counts.unique().tolist():  # clips of one length at a time, so that none sees another's padding
            rows = (counts == count).nonzero()[:, 0]
            tokens, pooled = self._encode_group(x[rows, ..., : count * patch])
            grid = tokens[:, 1:].unflatten(1, (num_freq, count))  # (b, Nf, Nt, D)
            padded = nn.functional.pad(grid, (0, 0, 0, num_time - count)).flatten(1, 2)
            groups.append(rows)
            all_tokens.append(torch.cat([tokens[:, :1], padded], 1))
            all_pooled.append(pooled)
        order = torch.cat(groups).argsort()
        return torch.cat(all_tokens)[order], torch.cat(all_pooled)[order]

    def _encode_group(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode spectrograms (B, 1, F, T) without padding: tokens (B, 1 + N, D) and vectors (B, E)."""
        depth, layers = len(self.encoder.blocks), self.layers
        outputs = self.encoder.forward_layers(x, {*layers, depth})
        chosen = outputs if depth in layers else outputs[:-1]
        vectors = pool(torch.stack(chosen).mean(0), self.pool, -(-x.shape[2] // self.encoder.patch_size))
        return outputs[-1], vectors

    def _prepare(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return spectrograms (B, 1, F, T), zero in padding, and the valid frames (B, T), None where all are.

        They are float32 at least, from which the stem computes in half precision too, as under autocast.
        """
        if input_values.ndim not in (3, 4):
            raise ValueError(f"input_values must be (B, T, F) or (B, 1, F, T), not {tuple(input_values.shape)}")
        x = input_values if input_values.ndim == 4 else input_values.transpose(1, 2).unsqueeze(1)
        x = x.to(torch.promote_types(self.dtype, torch.float32))
        if attention_mask is None or bool(attention_mask.all()):
            return x, None
        valid = attention_mask.bool()
        if valid.shape != (x.shape[0], x.shape[3]):
            raise ValueError(f"attention_mask must be (B, T), {(x.shape[0], x.shape[3])}, not {tuple(valid.shape)}")
        if not bool(valid[:, 0].all()):
            raise ValueError("attention_mask: a clip without frames, or padding before its frames: it must be behind")
        if bool((valid[:, 1:] & ~valid[:, :-1]).any()):
            raise ValueError("attention_mask: padding between the frames of a clip: it must be behind them")
        return x.masked_fill(~valid[:, None, None], 0), valid

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a folder that loads by itself: model, feature extractor and model card.

        Of a card that is there, only the revision changes, if it states one.

        Raises:
            CheckpointError: `config.card` has a key or value that is none.
        """
        read_card(self.config.card, CONFIG_NAME)
        if kwargs.pop("push_to_hub", False):
            name = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(name, **{key: kwargs.pop(key) for key in _PUSH_OPTIONS if key in kwargs})
        super().save_pretrained(save_directory, *args, **kwargs)
        write_companions(save_directory)
        readme, is_whole = Path(save_directory) / "README.md", (Path(save_directory) / WEIGHTS_NAME).is_file()
        digest = revision_of(save_directory) if is_whole else None  # none of weights in several files
        if not readme.exists():
            name = model_name(save_directory)
            card = model_card(self.config, self.num_parameters(), name=name, revision=digest)
            readme.write_text(card, encoding="utf-8")
        elif digest:
            readme.write_bytes(with_revision(readme.read_bytes(), digest))

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
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as parent:
            folder = os.path.join(parent, repo_id.rpartition("/")[2])  # the card's name of the model
            if api.file_exists(repo_id, "README.md", revision=revision):
                api.hf_hub_download(repo_id, "README.md", revision=revision, local_dir=folder)
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

    def _check_outputs(self, output_attentions: bool | None, output_hidden_states: bool | None) -> None:
        """Refuse what is asked for, of a call or of the configuration, and is not there to be given."""
        for name, value in (("output_attentions", output_attentions), ("output_hidden_states", output_hidden_states)):
            if getattr(self.config, name, False) if value is None else value:
                raise ValueError(f"{name}: not available from these models, which give tokens of the last block only")

    def _as_asked(self, outputs: ModelOutput, return_dict: bool | None) -> Any:
        """Return outputs, or the tuple of them where the call or the configuration asks for that."""
        return outputs if (self.config.return_dict if return_dict is None else return_dict) else outputs.to_tuple()

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
            raise CheckpointError(f"the checkpoint is incomplete: missing tensor {path}.{missing[0]}")
        values = {**dict(source.named_parameters()), **dict(source.named_buffers())}
        for key, tensor in _uninitialised(getattr(self, name)).items():
            tensor.data.copy_(values[key])
            tensor._is_hf_initialized = True


def _uninitialised(module: nn.Module, recurse: bool = True) -> dict[str, Any]:
    """Return the parameters and buffers that no checkpoint has filled, by name."""
    tensors = [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]
    return {name: tensor for name, tensor in tensors if not getattr(tensor, "_is_hf_initialized", False)}


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
            output_hidden_states: not available.
            return_dict: False for a tuple.

        Returns:
            Of an encoder `last_hidden_state` (B, 1 + N, D), the class token first, patches frequency by frequency, and
            `pooler_output` (B, E), the vectors that the configuration recommends; of a classifier `logits` (B, C), and
            `loss` where labels are given.

        Raises:
            ValueError: another shape, a clip without frames, labels that do not fit, or something is asked for that is
                not available.
        """
        self._check_outputs(output_attentions, output_hidden_states)
        return self._as_asked(self._outputs(input_values, attention_mask, labels), return_dict)

    def _outputs(self, input_values: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> ModelOutput:
        raise NotImplementedError


class AaPEModel(_EncoderUser):
    """The encoder."""

    _keys_to_ignore_on_load_unexpected = (r"^(head|teacher|predictor|projection)\.",)

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        self.post_init()

    def _outputs(self, input_values: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> ModelOutput:
        if labels is not None:
            raise ValueError("labels: an encoder has no classes; load it with AutoModelForAudioClassification")
        tokens, pooled = self.encode(input_values, attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)


class AaPEForAudioClassification(_EncoderUser):
    """The encoder, and LayerNorm and a linear layer on its class token (docs/method.md 8)."""

    _keys_to_ignore_on_load_unexpected = (r"^(teacher|predictor|projection)\.",)

    def __init__(self, config: AaPEConfig) -> None:
        super().__init__(config)
        if config.num_labels == 1 and config.problem_type in (None, "single_label_classification"):
            config.problem_type = "regression"  # as transformers has it: one output names no classes
        self.head = ClassificationHead(self.encoder.embed_dim, config.num_labels)
        self.post_init()

    def _outputs(self, input_values: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> ModelOutput:
        logits = self.head(self.encode(input_values, attention_mask)[0])
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _fresh_part(self, name: str) -> nn.Module | None:
        return ClassificationHead(self.encoder.embed_dim, self.config.num_labels) if name == "head" else None
