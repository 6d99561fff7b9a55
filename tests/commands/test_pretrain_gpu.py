"""A step where the arithmetic is a GPU's: the host never waits for it, and the numbers are the CPU's."""

import contextlib

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.pretraining.config import LossConfig, MaskingConfig, OptimConfig
from notes import link_notes, measure

LOSS = LossConfig(statistics_weight=1.0, statistics_components=2, min_prefix=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = link_notes(tmp_path_factory.mktemp("corpus") / "sound", 12)
    measure(folder)
    return folder


def make(corpus, out, device, **options):
    """Prepare a run with the statistics of prefixes in its loss: all that a step can have."""
    options = {"crop_seconds": 4.0, "optim": OptimConfig(precision="float32"), "loss": LOSS, **options}
    return Pretraining(PretrainConfig(
        data=str(corpus), out=str(out), model="nano", steps=6, clips=4, workers=0, device=device, log_every=1000,
        save_every=1000, masking=MaskingConfig(num_views=2), stats=str(corpus.parent / "stats.json"), **options,
    ))  # fmt: skip


def first_batch(run):
    """Return clips of two lengths, both padded to the crop."""
    batch = next(next(run.batches()))
    batch["num_samples"][0] //= 2
    batch["waveform"][0, :, batch["num_samples"][0] :] = 0
    return batch


class Copies(TorchDispatchMode):
    """Notes copies between the host and `meta`, which stands for a GPU, that the host would wait for."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        devices = {x.device.type for x in (*args, result) if isinstance(x, torch.Tensor)}
        is_async = kwargs.get("non_blocking") or any(value is True for value in args)
        if "copy" in str(function) and devices == {"cpu", "meta"} and not is_async:
            self.waits.append(str(function))
        return result


class Numbers(TorchFunctionMode):
    """Notes numbers of the host's that a call puts on `meta`, which shows no copy of them: a GPU's would block."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        is_made = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result.is_meta
        is_index = function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].is_meta
        if is_made or (is_index and any(isinstance(part, list) for part in _parts(args[1]))):
            self.waits.append(function.__name__)
        return result


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_no_step_makes_the_host_wait(corpus, tmp_path, monkeypatch, augment):
    """A GPU that is waited for in every step stands still while the host prepares the next one."""
    run = make(corpus, tmp_path / "run", "cpu", augment=augment)
    batch = first_batch(run)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # meta has none
    run.device = run.loop.flags.device = torch.device("meta")
    for module in run.loop.modules.values():
        module.to("meta")
    run.forward(0, batch)  # window and filters are copied once
    waits = []
    with Numbers(waits), Copies(waits):
        part = run.forward(1, batch)  # on meta, reading a value raises
        part.loss.backward()
        flag = run.loop.flags.post(~part.loss.detach().isfinite(), False, about=None)
        run.method.update_teacher(0.99, flag)
    assert waits == []


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_no_step_makes_the_host_wait_on_a_gpu(corpus, tmp_path, workers):
    """The same, by what CUDA says of optimiser, guards and loader as well."""
    run = make(corpus, tmp_path / "run", "cuda", workers=workers)
    run.bar.advance = run.loop.progress = lambda step: torch.cuda.set_sync_debug_mode(2 if 2 <= step < 5 else 0)
    try:
        assert run.train()
    finally:
        torch.cuda.set_sync_debug_mode(0)


@pytest.mark.gpu
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_and_gradients_are_those_of_the_cpu(corpus, tmp_path, is_compiled, precision):
    """A GPU trains the same model: same clips, crops and masks, same losses, the same norm of the gradient."""
    measured = {}
    for device in ("cpu", "cuda"):
        is_fast = device == "cuda"
        optim = OptimConfig(precision=precision if is_fast else "float32")
        run = make(corpus, tmp_path / device, device, optim=optim)
        if is_fast and is_compiled:
            run.method.compile(fullgraph=True, dynamic=False)
        batch = first_batch(run)
        with run.loop.autocast():
            part = run.forward(0, batch)
        part.loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in run.method.parameters() if p.grad is not None])
        measured[device] = {name: value.item() for name, value in part.measured.items()} | {"norm": norm.item()}
    limit = {"float32": 1e-3, "bfloat16": 5e-2}[precision]
    assert measured["cuda"] == pytest.approx(measured["cpu"], rel=limit, abs=limit)
