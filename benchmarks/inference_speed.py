"""What using the encoder costs: AaPE ViT-B beside Hugging Face's AST, long files beside short ones, memory, start-up.

    python benchmarks/inference_speed.py [--turns 7] [--minutes 10] [--hours 10]

Weights are random. Writes results/inference_cpu.json, or results/inference_gpu.json where there is a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aape.inference import AudioModel
from aape.inference.encoding import spectrograms
from aape.inference.segments import Segment
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model
from measuring import TURNS, time_in_turns, write

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RATE = 16000
CLIP_SECONDS = 10

EMBED = """
import json, resource, sys
import aape
model = aape.load_model(sys.argv[1], device="cpu")
peaks = []
for path in sys.argv[2:]:
    model.embed(path)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


def build(size: str, **options: Any) -> AudioModel:
    """Build a model with random weights."""
    torch.manual_seed(0)
    return AudioModel(AudioEncoder(encoder_config(size)), FrontEndConfig(mean=-6.0, std=4.0), **options).to(DEVICE)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Return white noise (samples,)."""
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32)


def beside_ast(turns: int) -> dict[str, Any]:
    """Time one ten-second clip through AaPE ViT-B and through AST, from its waveform and from its spectrogram."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    model, extractor = build("base"), ASTFeatureExtractor()
    ast = ASTModel(ASTConfig()).to(DEVICE).eval()
    wave = noise(CLIP_SECONDS)

    def ast_inputs() -> torch.Tensor:
        inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_values"]
        return inputs.to(DEVICE)

    (segment,) = (item for item in model._stream([[wave]], model._cut()) if isinstance(item, Segment))
    ours = spectrograms([segment], model.log_mel, model.device, torch.float32)
    theirs = ast_inputs()

    def embed_ast(inputs: torch.Tensor) -> Any:
        with torch.inference_mode():
            return ast(inputs).pooler_output.cpu()

    def encode() -> Any:
        with torch.inference_mode():
            return model.encoder(ours)[:, 0].cpu()

    forms = {
        "aape, waveform": lambda: model.embed(wave, RATE),
        "ast, waveform": lambda: embed_ast(ast_inputs()),
        "aape, spectrogram": encode,
        "ast, spectrogram": lambda: embed_ast(theirs),
    }
    seconds = time_in_turns(forms, turns)
    ratios = {kind: seconds[f"ast, {kind}"] / seconds[f"aape, {kind}"] for kind in ("waveform", "spectrogram")}
    parameters = {"aape": model.encoder, "ast": ast}
    return {
        "clip_seconds": CLIP_SECONDS,
        "tokens": {"aape": model.encoder(ours).shape[1], "ast": ast(theirs).last_hidden_state.shape[1]},
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in parameters.items()},
        "seconds": seconds,
        "times_as_fast": ratios,
    }


def write_file(path: Path, minutes: int) -> str:
    """Write a 16-bit WAV of repeated noise."""
    import soundfile

    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        minute = noise(60)
        for _ in range(minutes):
            file.write(minute)
    return str(path)


def long_beside_short(folder: Path, minutes: int, turns: int) -> dict[str, Any]:
    """Time the windows of a long file beside those of one minute."""
    model = build("base")
    lengths = {"short": 1, "long": minutes}
    paths = {name: write_file(folder / f"{name}.wav", length) for name, length in lengths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    model.embed(paths["short"])
    for _ in range(turns):
        for name, path in paths.items():
            # One minute is read as often as it takes to last as long as the long file: both see the same weather.
            start = time.perf_counter()
            for _ in range(lengths["long"] // lengths[name]):
                model.embed(path)
            seconds[name].append(time.perf_counter() - start)
    windows = minutes * 60 * 100 / 608
    rates = {name: windows / statistics.median(values) for name, values in seconds.items()}
    return {"minutes": lengths, "windows_per_second": rates, "long_over_short": rates["long"] / rates["short"]}


def memory(folder: Path, hours: int) -> dict[str, Any]:
    """Return the peak resident memory (MB) after a minute, and after hours of sound, in one process of its own."""
    model = build("tiny")
    save_model(folder / "model", model.encoder, model.front_end)
    paths = [write_file(folder / "minute.wav", 1), write_file(folder / "hours.wav", 60 * hours)]
    command = [sys.executable, "-c", EMBED, str(folder / "model"), *paths]
    minute, long = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"hours": hours, "minute_megabytes": minute, "hours_megabytes": long, "more_megabytes": long - minute}


def starting(turns: int) -> dict[str, Any]:
    """Time fresh interpreters, in turns."""
    commands = {
        "python": ["-c", "pass"],
        "aape --help": ["-m", "aape", "--help"],
        "import torch": ["-c", "import torch"],
        "import aape": ["-c", "import aape"],
        "import aape, load_model": ["-c", "from aape import load_model"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(turns + 1):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    medians = {
        name: statistics.median(values[1:]) for name, values in seconds.items()
    }  # the first fills the disk cache
    over = {name: medians[name] / medians["import torch"] for name in ("import aape", "import aape, load_model")}
    return {"seconds": medians, "over_import_torch": over}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per measurement; the median is reported")
    parser.add_argument("--minutes", type=int, default=10, help="length of the long file")
    parser.add_argument("--hours", type=int, default=10, help="length of the file whose memory is measured")
    parser.add_argument("--dry", action="store_true", help="print the results and write nothing")
    options = parser.parse_args()
    results: dict[str, Any] = {"turns": options.turns, "beside_ast": beside_ast(options.turns)}
    print("AST done", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results["long_beside_short"] = long_beside_short(Path(folder), options.minutes, options.turns)
        print("long file done", flush=True)
        results["memory"] = memory(Path(folder), options.hours)
        print("memory done", flush=True)
    results["starting"] = starting(options.turns)
    if options.dry:
        print(json.dumps(results, indent=1))
    else:
        write(f"inference_{'gpu' if DEVICE == 'cuda' else 'cpu'}", results)


if __name__ == "__main__":
    main()
