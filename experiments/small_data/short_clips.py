"""Does the class token know clips shorter than the crops it was trained on? A probe of each half of the vector.

    python experiments/small_data/short_clips.py --config experiments/small_data/probe-letters [--checkpoint RUN]

Takes the options of `aape probe`, and scores class token, mean patch token and both, of clips as they are and of the
same clips looped to the length of a crop. Prints a table, writes nothing.
"""

from __future__ import annotations

import sys

import numpy as np

from aape.commands.options import parse
from aape.commands.probe import ProbeConfig, build_protocol, read_probe_set, resolve
from aape.data.clips import load_clip
from aape.downstream.probing import score
from aape.inference import load_model

CROP_SECONDS = 3


def main() -> None:
    """Embed, probe, print."""
    config = resolve(parse(ProbeConfig, sys.argv[1:], verb="probe"))
    labelled = read_probe_set(config)
    model = load_model(config.checkpoint, config.device, pool="cls_mean", layers=[], loop_to=0)
    protocol, rate = build_protocol(labelled, config, "cpu"), model.log_mel.sample_rate
    waves = [load_clip(clip, sample_rate=rate) for clip in labelled.clips]
    looped = [np.resize(wave, max(len(wave), CROP_SECONDS * rate)) for wave in waves]
    print(f"{config.checkpoint}, {config.data}, median {np.median([len(wave) / rate for wave in waves]):.2f} s")
    print("| clips | class token | mean patch token | both |\n|---|---|---|---|")
    for title, sounds in (("as they are", waves), (f"looped to {CROP_SECONDS} s", looped)):
        vectors = np.asarray(model.embed(sounds, rate), np.float32)
        width = vectors.shape[1] // 2
        cells = []
        for part in (vectors[:, :width], vectors[:, width:], vectors):
            accuracy = score(part[None], protocol).summary["scores"]["last"]["accuracy"]
            cells.append(f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['std_seeds']:.1f}")
        print("| " + " | ".join([title, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
