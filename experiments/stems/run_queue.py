"""Work through all runs of the experiment, two at a time, one thread each; started again, it goes on where it stopped.

    nice -n 19 python experiments/stems/run_queue.py [--workers 2] [--stages select supervised ...] [--large] [--list]

SIGTERM or Ctrl-C stops the runs after a checkpoint. A run that fails is named, and the others go on; `--list` prints
what is left to do, as far as it is known: learning rates are chosen on the way.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import plan
from plan import STAGES, Job

from aape.errors import AapeError
from aape.runs.signals import Stopped, raising


class Queue:
    """Jobs by stage, each done once; a stage begins when the one before has nothing left to start."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages, self.begun, self.failed = stages, set[Path](), list[Path]()
        self.running: dict[Path, subprocess.Popen[bytes]] = {}
        self.is_stopping = False
        self.lock = threading.Lock()

    def left(self) -> Iterator[Job]:
        """Yield what can be started now and is not done."""
        for stage in self.stages:
            for job in STAGES[stage]():
                if job.out not in self.begun and not job.is_done():
                    yield job

    def work(self) -> None:
        """Start one job after the other, until none is left; what others are at work on may open more."""
        while not self.is_stopping:
            with self.lock:
                job = next(self.left(), None)
                if job is None and not self.running:
                    return
                if job is not None:
                    self.begun.add(job.out)
                    self.running[job.out] = process = job.start()
            if job is None:
                time.sleep(1)
                continue
            print(f"{time.strftime('%H:%M:%S')} {shlex.join(job.arguments)}", flush=True)
            status = process.wait()
            with self.lock:
                del self.running[job.out]
            if status and not self.is_stopping:
                self.failed.append(job.out)
                print(f"failed with exit status {status}: {job.out} (its last words are in {job.log})", flush=True)

    def stop(self) -> None:
        """Ask all runs to stop, and wait for them."""
        self.is_stopping = True
        with self.lock:
            for process in self.running.values():
                process.send_signal(signal.SIGTERM)


def run(stages: Sequence[str], num_workers: int) -> None:
    """Work through stages.

    Raises:
        AapeError: the sounds are not rendered, or runs failed.
        SystemExit: 128 + the signal that stopped it.
    """
    for task in plan.TASKS:
        if not (path := plan.DATA / task / "test.npy").exists():
            raise AapeError(f"{path} is not there: python experiments/stems/render.py makes it")
    queue = Queue(stages)
    workers = [threading.Thread(target=queue.work) for _ in range(num_workers)]
    for worker in workers:
        worker.start()
    try:
        with raising():
            while any(worker.is_alive() for worker in workers):
                time.sleep(0.2)
    except (KeyboardInterrupt, Stopped):
        queue.stop()
        for worker in workers:
            worker.join()
        raise
    if queue.failed:
        raise AapeError(f"{len(queue.failed)} runs failed: {', '.join(map(str, queue.failed))}")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--large", action="store_true", help="for a GPU: larger encoders, four times the steps")
    parser.add_argument("--list", action="store_true", help="print what is left to do")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.large:
        plan.enlarge()
    if options.list:
        for job in Queue(options.stages).left():
            print(shlex.join(job.arguments))
        return
    try:
        run(options.stages, options.workers)
    except AapeError as error:
        print(f"run_queue.py: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
