"""A look at what the encoder is worth while it trains: a linear probe on a small labelled set."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aape.commands.pretrain import WatchConfig
from aape.commands.probe import ProbeConfig, read_set, run_probe
from aape.downstream.yardsticks import ENCODER
from aape.models.config import FrontEndConfig
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model
from aape.runs.files import Records

PROBES_NAME = "probes.jsonl"


class ProbeOnTheWay(TrainerCallback):
    """Probes the student every so many steps, and appends its scores to probes.jsonl.

    Args:
        encoder: the student.
        front_end: what its spectrograms are made with.
        watch: the labelled set and how often.

    Raises:
        DataError: the set cannot be probed.
    """

    def __init__(self, encoder: AudioEncoder, front_end: FrontEndConfig, watch: WatchConfig) -> None:
        self.encoder, self.front_end, self.watch = encoder, front_end, watch
        config = self._config(Path(), "cpu")
        read_set(config)  # says now what is wrong with the set

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the probes that came after the checkpoint."""
        self.records = Records(Path(args.output_dir) / PROBES_NAME)
        if state.is_world_process_zero:
            self.records.cut_after(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the encoder aside and probe it; the run's random numbers stay as they are."""
        if state.global_step % self.watch.every or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / "probes" / f"step-{state.global_step}"
        save_model(folder / "model", self.encoder, self.front_end, training={"steps": state.global_step})
        config = self._config(folder, args.device.type)
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            scores = run_probe(config)["rows"][ENCODER]["scores"]
        self.encoder.train()
        self.records.append(state.global_step, scores=scores)

    def _config(self, folder: Path, device: Any) -> ProbeConfig:
        watch = self.watch
        return ProbeConfig(
            data=str(watch.data), checkpoint=str(folder / "model"), out=str(folder), label=watch.label,
            split=watch.split, fold=watch.fold, where=watch.where, steps=watch.steps, seeds=1, yardsticks=False,
            device=device,
        )  # fmt: skip
