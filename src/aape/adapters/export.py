"""A model as one file for ONNX Runtime or torch.export: its writer, its reader and their comparison.

The file holds log-mel, statistics and encoder, with the operators made of PyTorch's own (`aape.ops.exportable`).
Letters: B clips, L samples, T frames, P patch size, Nf and Nt frequency and time patches, D width.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from aape.data.log_mel import LogMel
from aape.errors import AapeError
from aape.inference import AudioModel
from aape.layers.aape import AaPE
from aape.models.pooling import pool
from aape.ops import exportable

EXPORTED_FRAMES = 608  # of the longest input, which is the paper's length
OUTPUTS = ("embedding", "frames")

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


class SamplesToEmbeddings(nn.Module):
    """What is exported: front end and encoder in one forward, copies of the model's."""

    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.log_mel = _AnyLengthLogMel(**dataclasses.asdict(model.front_end))
        self.encoder = copy.deepcopy(model.encoder).requires_grad_(False)
        self.encoder.stem.register_module("pos_embed", _AnyLength(self.encoder.stem.pos_embed.table))
        self.pool, self.layers = model.pool, model.layers
        self.num_freq = model.log_mel.n_mels // model.encoder.patch_size

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Embed clips of equal length (B, L): embedding (B, E), and frame embeddings (B, Nt, Nf * D)."""
        outputs = self.encoder.forward_layers(self.log_mel(samples), self.layers)
        tokens = torch.stack(outputs).mean(0)  # (B, 1 + Nf Nt, D)
        grid = tokens[:, 1:].unflatten(1, (self.num_freq, -1))  # (B, Nf, Nt, D)
        return pool(tokens, self.pool, self.num_freq), grid.transpose(1, 2).flatten(2)


class _AnyLengthLogMel(LogMel):
    """`LogMel` without its question whether the sound is long enough to be reflected: one graph has one answer."""

    def _pad(self, wave: Tensor) -> Tensor:
        reach = self.n_fft // 2
        last = torch.ones_like(wave[0], dtype=torch.int64).sum() - 1
        positions = torch.arange(-reach, wave.shape[1] + reach)
        mirrored = (last - (last - positions.abs()).abs()).clamp(min=0)
        is_kept = (mirrored == positions) | (last >= reach)  # the others are zeros
        return wave[:, mirrored] * is_kept.to(wave.dtype)


class _AnyLength(nn.Module):
    """`PositionTable` without its question whether the clip is longer than the table."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.detach())

    def forward(self, num_time: int) -> Tensor:
        """Return positions (Nf * num_time, D), each a mixture of two columns of the table."""
        columns = torch.arange(self.table.shape[1], dtype=self.table.dtype)
        times = torch.arange(num_time, dtype=self.table.dtype)
        step = (len(columns) / torch.ones_like(times).sum()).clamp(max=1)  # 1 where the table is only cut off
        fractional_columns = ((times + 0.5) * step - 0.5).clamp(0, len(columns) - 1)
        weights = (1 - (fractional_columns[:, None] - columns).abs()).clamp(min=0)  # (num_time, columns)
        return (weights @ self.table).flatten(0, 1)


def min_samples(model: AudioModel) -> int:
    """Return the least number of samples that an exported model takes: 1, or with the standard stem three patches'."""
    # Of that stem torch.export makes no program that holds for one patch and for many.
    return 1 if isinstance(model.encoder.stem, AaPE) else 3 * model.encoder.patch_size * model.front_end.hop_length


def max_samples(model: AudioModel) -> int:
    """Return the largest number of samples that an exported model takes: those of 608 frames."""
    return EXPORTED_FRAMES * model.front_end.hop_length - 1


def write(model: AudioModel, path: Path, kind: str) -> None:
    """Write a model, on the CPU and in float32, to a file of `kind` "onnx" or "pt2"."""
    usage = {
        "sample_rate": model.front_end.sample_rate,
        "min_samples": min_samples(model),
        "max_samples": max_samples(model),
        "loop_to": model.loop_to,
        "pool": model.pool,
        "layers": list(model.layers),
    }
    about = {"aape": json.dumps(usage), "training": json.dumps(model.training)}
    program = _trace(model)
    if kind == "pt2":
        content = io.BytesIO()  # at a full disk, torch's own writer ends the process
        torch.export.save(program, content, extra_files=about)
        path.write_bytes(content.getvalue())
        return
    with _quiet():
        onnx_program = torch.onnx.export(
            program, (), dynamo=True, input_names=["samples"], output_names=OUTPUTS, verbose=False
        )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update(about)
    onnx_program.save(path)


def open_onnx(path: str | os.PathLike[str]) -> Run:
    """Open an ONNX file with ONNX Runtime, on the CPU."""
    require_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])

    def run(samples: Tensor) -> tuple[Tensor, Tensor]:
        embedding, frames = session.run(list(OUTPUTS), {"samples": samples.numpy()})
        return torch.from_numpy(embedding), torch.from_numpy(frames)

    return run


def open_pt2(path: str | os.PathLike[str]) -> Run:
    """Open a torch.export file."""
    run: Run = torch.export.load(path).module()
    return run


def compare(model: AudioModel, run: Run) -> float:
    """Return the largest difference between an exported model and PyTorch's, over several lengths and batches.

    Of numbers above 1 it is the share of the largest one.

    Noise, a tone in faint noise and near silence, none of it looped; `embed` and `embed_frames` are the other side.
    """
    model = AudioModel(model.encoder, model.front_end, pool=model.pool, layers=model.layers)  # nothing is looped
    least, most, rate = min_samples(model), max_samples(model), model.front_end.sample_rate
    reach, patch = model.front_end.n_fft // 2, model.encoder.patch_size * model.front_end.hop_length
    noise = torch.randn(most, generator=torch.Generator().manual_seed(0))
    tone = torch.sin(2 * torch.pi * 440 / rate * torch.arange(most))
    # A tone alone would show how float32 rounds beside it: there PyTorch itself is 1e-4 from its own float64.
    sounds = torch.stack([0.1 * noise, 0.5 * tone + 1e-3 * noise, 1e-5 * noise])
    candidates = (least, reach, reach + 1, patch - 1, patch, 4 * patch - 1, rate, most // 2 + 1, most)
    lengths = [length for length in candidates if least <= length <= most]
    differences = []
    for length, num_clips in zip(lengths, itertools.cycle((1, 3, 2)), strict=False):
        samples = sounds[:num_clips, :length].contiguous()
        embedding, frames = run(samples)
        expected = torch.from_numpy(model.embed(samples.numpy(), rate))
        expected_frames = torch.from_numpy(model.embed_frames(samples[0].numpy(), rate)[0])
        for result, right in ((embedding, expected), (frames[0], expected_frames)):
            largest = max(1.0, float(right.abs().max()))  # float32 rounds by the size of a number
            is_alike = result.shape == right.shape
            differences.append((result - right).abs().max() / largest if is_alike else torch.tensor(torch.nan))
    return float(torch.stack(differences).max())  # NaN if one is


def require_onnx() -> None:
    """Raise an AapeError for a package that is missing now rather than after the tracing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise AapeError(f"ONNX needs {', '.join(missing)}: pip install 'aape[onnx]'")


def _trace(model: AudioModel) -> torch.export.ExportedProgram:
    """Record the forward for any number of clips and any length from `min_samples` to `max_samples`."""
    example = torch.zeros(2, max_samples(model) // 3)
    length = torch.export.Dim("length", min=min_samples(model), max=max_samples(model))
    shapes = {"samples": {0: torch.export.Dim("clips", min=1), 1: length}}
    module = SamplesToEmbeddings(model).eval()
    module.log_mel(example)  # makes its constants now, which tracing could not
    with exportable(), torch.no_grad(), _quiet():
        program = torch.export.export(
            module, (example,), dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
    # What tracing could not prove of the length it asks at run time, whether some size is 1 for one; all of it is about
    # which copies could be spared, so `compare` is what judges. The range of the length is asked for apart from these.
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporters say about other packages and their own future."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(before)
