"""A saved model: a folder of `config.json` and `model.safetensors` that holds all that embedding a sound needs.

Weights are named `encoder.*`, and `head.*` where there is one. Nothing in a folder is trusted: shapes are compared
before any memory is taken for them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aape.errors import CheckpointError, ConfigError
from aape.models.companions import AUTO_MAP, to_json, write_companions
from aape.models.config import EncoderConfig, FrontEndConfig, Pool
from aape.models.config_file import (
    CONFIG_NAME,
    read_card,
    read_head_pool,
    read_loop_to,
    read_mapping,
    read_pooling,
    read_sections,
)
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.pooling import check_pooling
from aape.models.revision import WEIGHTS_NAME, digest, state_revision
from aape.runs.checkpoints import MANIFEST_NAME
from aape.runs.files import write_atomically

PRETRAINED = Path(__file__).with_name("pretrained")  # the models that are part of the package, by name

_KEYS = (
    *("model_type", "architectures", "dtype", "encoder", "front_end", "loop_to", "pool", "layers", "training", "card"),
    *("auto_map", "id2label", "label2id", "problem_type", "head_pool"),
)
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as files say it
PROBLEMS = {False: "single_label_classification", True: "multi_label_classification"}  # as transformers calls them
_REGRESSION = "regression"  # likewise; its head is no classifier, and is not read
_MAX_BYTES = 1 << 24  # of a configuration, and of a header
_LFS_POINTER = b"version https://git-lfs"
_TRAINING_PARTS = ("teacher.", "predictor.", "projection.")  # of AaPEForPreTraining: not needed for use
_FREE_FIELDS = ("mask_context", "pos_trainable")  # encoders that differ in these alone share their weights


@dataclass(frozen=True)
class SavedModel:
    """What a saved folder holds, as given to `save_model`; on the CPU, in float32 and evaluation mode."""

    encoder: AudioEncoder
    front_end: FrontEndConfig
    head: ClassificationHead | None
    labels: list[str] | None
    training: dict[str, Any]
    multi_label: bool = False
    card: dict[str, Any] = dataclasses.field(default_factory=dict)
    loop_to: float = 0.0
    pool: Pool = "cls_mean"
    layers: tuple[int, ...] = ()


def save_model(
    folder: str | os.PathLike[str],
    encoder: AudioEncoder,
    front_end: FrontEndConfig,
    *,
    head: ClassificationHead | None = None,
    labels: list[str] | None = None,
    multi_label: bool = False,
    training: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
    loop_to: float | None = None,
    pool: str | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model for `read_model` and transformers' Auto classes, each file whole; equal weights give equal bytes.

    Args:
        folder: where to; made if needed, a model in it is replaced.
        encoder: what to save.
        front_end: what it was trained with.
        head: its classifier.
        labels: names of the classes, in the order of the logits; all different.
        multi_label: a sound may have several classes or none.
        training: how it was trained; JSON values.
        card: for the model card and mteb: `data`, a text; `datasets`, names of public ones among it, none if empty;
            `license`, as on the Hub; `date` of release; `scores`, each with `data`, `metric`, `value`, `protocol`.
        loop_to: length in seconds, 0 to 600, that shorter clips were looped to in training and users' sounds will be.
        pool: what vectors the model recommends, see `aape.models.pooling.pool`; None for "cls_mean".
        layers: blocks that these are of, counted from 1; none for the last.
        dtype: of the file, such as float16 for half the size; readers compute in float32 all the same.

    Raises:
        CheckpointError: a weight has no value, or is not finite (in `dtype`), `loop_to` is out of range, there is no
            such pool or block, or a key or value of `card` is none.
        ValueError: the head has another number of classes than `labels` names, or two of them have one name.
    """
    from safetensors.torch import save

    target = Path(folder)
    config: dict[str, Any] = {
        "model_type": "aape",
        "architectures": ["AaPEModel" if head is None else "AaPEForAudioClassification"],
        "auto_map": AUTO_MAP,
        "dtype": "float32",  # what transformers computes in, whatever the file holds
        "encoder": dataclasses.asdict(encoder.config),
        "front_end": dataclasses.asdict(front_end),
        "training": training or {},
    }
    where = os.fspath(folder)
    read_pooling({"pool": pool, "layers": layers}, encoder.config.depth, where)
    optional: dict[str, Any] = {"loop_to": read_loop_to(loop_to, where), "pool": pool, "layers": [*(layers or ())]}
    optional["card"] = read_card(card, where)
    config |= {key: value for key, value in optional.items() if value} | _describe_head(head, labels, multi_label)
    tensors = _tensors(encoder, head, dtype, where)
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
    write_companions(target)
    write_atomically(target / CONFIG_NAME, to_json(config))
    state_revision(target)


def recommend(name_or_path: str | os.PathLike[str], *, pool: str, layers: Sequence[int] = ()) -> None:
    """Save with a model what vectors it recommends, and `load_model` gives by default.

    Args:
        name_or_path: the model; only its config.json is written anew, and the revision in its card.
        pool: see `aape.models.pooling.pool`.
        layers: blocks that the vectors are of, counted from 1; none for the last.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: no such pool, or no such blocks.
    """
    path = find_model(name_or_path) / CONFIG_NAME
    values = _read_config(path)
    depth = read_sections(values, os.fspath(path))[0].depth
    kind, chosen = check_pooling(pool, layers, depth)
    write_atomically(path, to_json(values | {"pool": kind, "layers": list(chosen)}))
    state_revision(path.parent)


def _tensors(
    encoder: AudioEncoder, head: ClassificationHead | None, dtype: torch.dtype | None, where: str
) -> dict[str, Tensor]:
    """Return what the file holds, by name; all of it finite."""
    tensors = {
        f"{prefix}.{name}": tensor.detach().to(dtype or tensor.dtype)
        for prefix, module in (("encoder", encoder), ("head", head))
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    check_values(tensors, where)
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _describe_head(head: ClassificationHead | None, labels: list[str] | None, multi_label: bool) -> dict[str, Any]:
    if head is not None and labels is not None and head.linear.out_features != len(labels):
        raise ValueError(f"{len(labels)} labels for a head of {head.linear.out_features} classes")
    if labels is not None and len(set(labels)) < len(labels):
        raise ValueError(f"two classes are called {max(labels, key=labels.count)!r}")
    config: dict[str, Any] = {} if head is None else {"problem_type": PROBLEMS[multi_label]}
    if head is not None and head.pool != "cls":
        config["head_pool"] = head.pool
    if labels is not None:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    return config


def model_name(name_or_path: str | os.PathLike[str]) -> str:
    """Return what a model is called on any machine: the last part of its path, and for RUN/model that of its run."""
    path = Path(os.path.abspath(name_or_path))
    return path.parent.name if path.name == "model" else path.name


def revision(name_or_path: str | os.PathLike[str]) -> str:
    """Return what names the content of a model, see `aape.models.revision.digest`.

    Raises:
        CheckpointError: there is no such model, or a file of it cannot be read.
    """
    return digest(find_model(name_or_path))


def memory_mb(num_parameters: int) -> float:
    """Return the memory that weights take in use, in float32: MB of 2^20 bytes, as mteb counts them."""
    return 4 * num_parameters / 2**20


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: a shipped model's name, a saved folder, or a run's, which holds one as `model`.

    Raises:
        CheckpointError: there is no such model.
    """
    shipped = shipped_models()
    if not isinstance(name_or_path, (str, os.PathLike)):
        what = f"{name_or_path!r}: neither the name of a model nor the path of its folder"
        raise CheckpointError(f"{what}; shipped models: {', '.join(shipped) or 'none'}")
    name = os.fspath(name_or_path)
    if name in shipped:
        return PRETRAINED / name
    folder = Path(name)
    inner = folder / "model"
    try:
        if folder.is_dir():
            return inner if (inner / CONFIG_NAME).is_file() and not (folder / WEIGHTS_NAME).is_file() else folder
        reason = "a file, a saved model is a folder" if folder.exists() else "no such folder"
    except OSError as error:  # a name too long, a folder that may not be entered
        reason = f"cannot be read: {error.strerror or error}"
    raise CheckpointError(f"{name}: {reason}; shipped models: {', '.join(shipped) or 'none'}")


def shipped_models() -> list[str]:
    """Return the names of the models that are part of the package."""
    return sorted(folder.parent.name for folder in PRETRAINED.glob(f"*/{CONFIG_NAME}"))


def read_model(name_or_path: str | os.PathLike[str]) -> SavedModel:
    """Read a model back, found by `find_model`.

    Raises:
        CheckpointError: a file is missing, damaged or not what it should be; a configuration key is unknown or has a
            wrong value; a tensor is missing, too many, of another shape than the configuration says, or not finite.
    """
    folder = find_model(name_or_path)
    where = os.fspath(folder / CONFIG_NAME)
    values = _read_config(folder / CONFIG_NAME)
    encoder_config, front_end = read_sections(values, where)
    problem = values.get("problem_type") or PROBLEMS[False]
    if problem not in (*PROBLEMS.values(), _REGRESSION):
        raise CheckpointError(f"{where}: problem_type: expected {' or '.join(PROBLEMS.values())}, got {problem!r}")
    labels = None if problem == _REGRESSION else _read_labels(values, where)
    with open_weights(folder / WEIGHTS_NAME) as file:
        skipped = ("head.", *_TRAINING_PARTS) if problem == _REGRESSION else _TRAINING_PARTS
        shapes = _read_shapes(file, folder / WEIGHTS_NAME, skipped)
        num_classes = (*shapes.get("head.linear.weight", ()), 1)[0]
        if labels is not None and len(labels) != num_classes and "head.linear.weight" in shapes:
            raise CheckpointError(f"{folder}: {len(labels)} labels for a head of {num_classes} classes")
        has_head = any(name.startswith("head.") for name in shapes)
        head_pool = read_head_pool(values.get("head_pool"), where)
        modules = _build(encoder_config, num_classes if has_head else None, head_pool, where)
        expected = {f"{key}.{name}": t for key, module in modules.items() for name, t in module.state_dict().items()}
        _compare_shapes(shapes, {name: tuple(t.shape) for name, t in expected.items()}, folder / WEIGHTS_NAME)
        # Copies, because a view of the file would change or crash with it.
        tensors = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in shapes}
    check_values(tensors, os.fspath(folder / WEIGHTS_NAME))
    for key, module in modules.items():
        part = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{key}.")}
        module.load_state_dict(part, assign=True)
        module.eval()
    return SavedModel(
        cast(AudioEncoder, modules["encoder"]),
        front_end,
        cast("ClassificationHead | None", modules.get("head")),
        labels,
        read_mapping(values, "training", where),
        problem == PROBLEMS[True],
        read_mapping(values, "card", where),
        read_loop_to(values.get("loop_to"), where),
        *read_pooling(values, encoder_config.depth, where),
    )


def load_weights(encoder: AudioEncoder, name_or_path: str | os.PathLike[str]) -> SavedModel:
    """Start an encoder from a saved one, in place, and return what was read, the front end of the weights included.

    Raises:
        CheckpointError: as `read_model`, or the saved encoder is another than this one.
    """
    saved = read_model(name_or_path)
    ours, theirs = vars(encoder.config), vars(saved.encoder.config)
    keys = [key for key in ours if key not in _FREE_FIELDS and ours[key] != theirs[key]]
    different = [f"{key} {theirs[key]} there, {ours[key]} here" for key in keys]
    if "num_frames" in keys:  # those of a crop, 1 + samples // hop_length, in whole patches
        frames, hop = theirs["num_frames"], saved.front_end.hop_length / saved.front_end.sample_rate
        seconds = f"{(frames - theirs['patch_size']) * hop:g} to {(frames - 1) * hop:g} s"
        different[keys.index("num_frames")] += f" (crops of {seconds} have {frames}: --crop-seconds)"
    if different:
        raise CheckpointError(f"{os.fspath(name_or_path)}: another encoder: {'; '.join(different)}")
    encoder.load_state_dict(saved.encoder.state_dict())
    return saved


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a named pipe would never end
            raise CheckpointError(f"{path}: not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are too many for a configuration")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (path.parent / MANIFEST_NAME).exists():
            raise CheckpointError(f"{path.parent}: a training checkpoint: give the folder of its run") from error
        raise CheckpointError(f"{path.parent}: not a saved model, there is no {path.name} in it") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("model_type") != "aape":
        raise CheckpointError(f'{path}: not a model of this package: no "model_type": "aape" in it')
    # transformers adds keys of its own to the file, so only what looks like one of ours is refused.
    for key in values:
        nearest = difflib.get_close_matches(key, [known for known in _KEYS if known not in values], n=1, cutoff=0.8)
        if key not in _KEYS and nearest:
            raise CheckpointError(f"{path}: {ConfigError.unknown_key(key, nearest)}")
    return values


def _read_labels(values: dict[str, Any], where: str) -> list[str] | None:
    names = values.get("id2label")
    if names is None:
        return None
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        raise CheckpointError(f"{where}: id2label: expected a name for every class from 0 up")
    return [str(names[str(index)]) for index in range(len(names))]


def _build(config: EncoderConfig, num_classes: int | None, head_pool: Pool, where: str) -> dict[str, nn.Module]:
    """Build the encoder, and a classifier of so many classes, without memory for their weights."""
    try:
        with torch.device("meta"):
            encoder = AudioEncoder(config)
            if num_classes is None:
                return {"encoder": encoder}
            num_freq = encoder.stem.grid_size[0]
            return {"encoder": encoder, "head": ClassificationHead(config.embed_dim, num_classes, head_pool, num_freq)}
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: encoder: {str(error).splitlines()[0]}") from error


def open_weights(path: Path) -> Any:
    """Open a safetensors file; a CheckpointError says what is wrong with one that cannot be opened."""
    import safetensors

    if not path.is_file():
        raise CheckpointError(f"{path.parent}: not a saved model, there is no {path.name} in it")
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if start == _LFS_POINTER:
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
    promised = int.from_bytes(start[:8], "little")
    try:
        if promised > _MAX_BYTES:
            much = f"a header of {promised} bytes, the most is {_MAX_BYTES}"
            raise CheckpointError(f"{path}: not a safetensors file, or damaged ({much})")
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged ({str(error).splitlines()[0]})") from error


def _read_shapes(file: Any, path: Path, skipped: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor that use needs from the file's header."""
    shapes = {}
    for name in file.keys():  # noqa: SIM118, it is no mapping
        if name.startswith(skipped):
            continue
        part = file.get_slice(name)
        if part.get_dtype() not in _DTYPES:
            raise CheckpointError(f"{path}: {name}: {part.get_dtype()} values are no weights")
        shapes[name] = tuple(part.get_shape())
    return shapes


def _compare_shapes(there: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    for name, shape in expected.items():
        if there.get(name, shape) != shape:
            raise CheckpointError(f"{path}: {name}: {list(there[name])} in the file, {list(shape)} by {CONFIG_NAME}")
    for what, names in (("missing", expected.keys() - there.keys()), ("unexpected", there.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{path}: {what} tensor {min(names)}{more}")


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not there or not finite: a CheckpointError that begins with `where`."""
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise CheckpointError(f"{where}: {name}: has no values: the weights were never loaded or initialised")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name}: not finite: the weights are damaged")
