"""What a stem's stride folds, as numbers: modulation rates read from its tokens, and what shifts below a patch change.

Tokens 160 ms apart sample every envelope 6.25 times a second: rates f, 6.25 k - f and 6.25 k + f look alike from token
to token. Letters: B sounds, F mel bins, T frames, Nf rows of tokens (frequency patches; 1 where tokens span all bins),
Nt time patches, D width, S shifts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aape.analysis.kernels import mel_hertz
from aape.data.log_mel import LogMel
from aape.downstream.metrics import confusion_matrix
from aape.layers import AaPE, PatchEmbed
from aape.layers.lambda_encoder import LambdaEncoder
from aape.layers.patch_embed import Stem
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder, build_stem

FRONT_END, PATCH_SIZE = FrontEndConfig(), 16  # the paper's
FRAMES_PER_SECOND = FRONT_END.sample_rate / FRONT_END.hop_length  # 100
TOKENS_PER_SECOND = FRAMES_PER_SECOND / PATCH_SIZE  # 6.25
APPARENT_HERTZ = 1.25  # what all rates of the experiment fold to
_SIDES = (-APPARENT_HERTZ, APPARENT_HERTZ)
# The rates, in Hz, between the Nyquist frequencies of tokens (3.125) and frames (50): the last would lie above.
RATES = tuple(TOKENS_PER_SECOND * k + side for k in range(1, PATCH_SIZE // 2 + 1) for side in _SIDES)[:-1]
NUM_FRAMES = 13 * PATCH_SIZE  # of a sound: 2.08 s
SHIFTS = tuple(range(PATCH_SIZE + 1))  # frames
SAMPLES = NUM_FRAMES * FRONT_END.hop_length - 1  # one less than whole hops, for so many centred frames
SHIFTED_SAMPLES = SAMPLES + SHIFTS[-1] * FRONT_END.hop_length
PENALTIES = tuple(10.0**power for power in range(-2, 7))
MODEL = "tiny"  # the size whose width the untrained stems have
STEMS: dict[str, dict[str, Any]] = {
    "standard": {"stem": "patch"},
    "AaPE bilateral": {},
    "AaPE analytic": {"phase": "analytic"},
    "AaPE bilateral, fixed": {"adaptive": False},
}
FRAMES, PATCHES, CONTROL = "log-mel frames", "log-mel patches", "standard + GELU"
MODEL_TOKENS = (": stem", ": patch tokens", ": class token")  # endings of their names
READ_OUTS = {"mean": "mean of all tokens", "token": "single token", "spread": "standard deviation over time"}
_BATCH = 16

Tokens = dict[str, Tensor]  # by name, (B, Nf, Nt, D)
Progress = Callable[[int, int], None]  # called with (done, total)
TokenMap = Callable[[Tensor], Tokens]  # of a log-mel spectrogram (B, 1, F, T), not standardised
Answers = dict[tuple[str, str], NDArray[np.int64]]  # by (name, read-out), classes (m, decoders)
Distances = dict[tuple[str, str], NDArray[np.float64]]  # by (name, kind), (S, B)
Rows = list[dict[str, Any]]


def modulated_tones(rates: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Synthesise chords of tones, modulated at rates in Hz (B,): (B, samples), float32 at 16 kHz.

    Each frequency patch holds one tone. All tones of a sound have its rate; pitch, level (-40 to -20 dB), depth of
    modulation (50 to 100 %) and both phases are drawn for each. White noise of -60 dB keeps the bins between them off
    the floor of the logarithm.
    """
    time = torch.arange(num_samples, dtype=torch.float64) / FRONT_END.sample_rate
    sound = 1e-3 * torch.randn(len(rates), num_samples, generator=generator)
    for row in range(FRONT_END.n_mels // PATCH_SIZE):
        position, level, depth, carrier, start = torch.rand(5, len(rates), 1, generator=generator)
        bins = (PATCH_SIZE * row + 2 + (PATCH_SIZE - 4) * position).flatten().tolist()  # not at the patch's edges
        hertz = [[mel_hertz(value, (FRONT_END.f_min, FRONT_END.f_max), FRONT_END.n_mels)] for value in bins]
        turns = torch.tensor(hertz, dtype=torch.float64) * time + carrier
        swings = rates[:, None].double() * time + start
        # Whole turns are dropped in float64; what is left is exact enough for float32, whose sines are quicker.
        tone, swing = (torch.sin(2 * math.pi * (x - x.floor()).float()) for x in (turns, swings))
        sound += 10 ** (level - 2) * (1 + (0.5 + 0.5 * depth) * swing) * tone
    return sound


def random_tones(count: int, seed: int) -> Tensor:
    """Return so many sounds of `modulated_tones` (B, `SHIFTED_SAMPLES`), with rates of `RATES` drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor(RATES)[torch.randint(len(RATES), (count,), generator=generator)]
    return modulated_tones(rates, SHIFTED_SAMPLES, generator)


class GeluStem(PatchEmbed):
    """A control for `AaPE`: its fusion and widths (D, Z), with GELU of a linear map of E where AaPE has SBLU."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__((FRONT_END.n_mels, NUM_FRAMES), PATCH_SIZE, 1, embed_dim)
        self.hidden = torch.nn.Linear(embed_dim, hidden_dim)
        self.fuse = torch.nn.Linear(embed_dim + hidden_dim, embed_dim)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed, with shapes as in `PatchEmbed.forward`."""
        embedded = super().forward(spectrogram, visible)
        embedded = F.layer_norm(embedded, embedded.shape[-1:])
        z = F.gelu(self.hidden(embedded))
        return self.fuse(torch.cat([embedded, F.layer_norm(z, z.shape[-1:])], -1))


def lengthen_windows(stem: AaPE, *, is_averaging: bool) -> AaPE:
    """Return a copy of an adaptive stem with the longest windows that the constraint on decays allows.

    With `is_averaging` its depthwise convolution averages the magnitudes of a patch; else its random taps fold them.
    """
    stem = copy.deepcopy(stem)
    encoder = stem.lambda_encoder
    assert isinstance(encoder, LambdaEncoder)
    with torch.no_grad():
        encoder.head.bias[: encoder.hidden_dim] = -10.0  # softplus(-10) adds nothing to the least decay
        if is_averaging:
            stem.decimate.weight.fill_(1 / stem.decimate.kernel_size[0])
    return stem


def untrained_tokens(mean: float, std: float, seed: int) -> TokenMap:
    """Map log-mels of such mean and deviation to the tokens of every stem, with random weights, and of two yardsticks.

    All stems have one width. The yardsticks are the log-mel's own frames (Nf = 1, D = F), and its 16 x 16 patches, of
    which the standard stem's tokens are a linear map.
    """
    stems: dict[str, Stem] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, options in STEMS.items():
            stems[name] = stem = build_stem(encoder_config(MODEL, **options))
            if not isinstance(stem, AaPE):
                stems[CONTROL] = GeluStem(stem.embed_dim, encoder_config(MODEL).sblu_dim)
            elif isinstance(stem.lambda_encoder, LambdaEncoder):
                stems[f"{name}, long windows"] = lengthen_windows(stem, is_averaging=False)
                stems[f"{name}, long + averaging"] = lengthen_windows(stem, is_averaging=True)

    def tokens(log_mel: Tensor) -> Tokens:
        x = (log_mel - mean) / std
        rows = x[:, 0].unflatten(1, (-1, PATCH_SIZE)).unflatten(3, (-1, PATCH_SIZE))  # (B, Nf, P, Nt, P)
        result = {FRAMES: x.transpose(2, 3), PATCHES: rows.transpose(2, 3).flatten(3)}
        return result | {name: stem(x).unflatten(1, (rows.shape[1], -1)) for name, stem in stems.items()}

    return tokens


def model_tokens(name: str, encoder: AudioEncoder, mean: float, std: float) -> TokenMap:
    """Map log-mels to a model's tokens behind the stem and behind the encoder, their names preceded by the model's."""
    kept: list[Tensor] = []
    encoder.stem.register_forward_hook(lambda _module, _inputs, output: kept.append(output))

    def tokens(log_mel: Tensor) -> Tokens:
        kept.clear()
        x = (log_mel - mean) / std
        encoded = encoder(x)
        grid = (FRONT_END.n_mels // PATCH_SIZE, -1)
        parts = (kept[0].unflatten(1, grid), encoded[:, 1:].unflatten(1, grid), encoded[:, None, :1])
        return {f"{name}{ending}": part for ending, part in zip(MODEL_TOKENS, parts, strict=True)}

    return tokens


def read_out(tokens: Tensor) -> dict[str, Tensor]:
    """Reduce tokens (B, Nf, Nt, D) to the features of decoders, (B, decoders, D), by name of `READ_OUTS`.

    "token" is the middle one of each row, with a decoder for each row; "spread" is over time, averaged over the rows.
    A single token has a mean only.
    """
    result = {"mean": tokens.mean((1, 2))[:, None]}
    if tokens.shape[1] * tokens.shape[2] > 1:
        result["token"] = tokens[:, :, tokens.shape[2] // 2]
        result["spread"] = tokens.std(2).mean(1)[:, None]
    return result


def ridge(features: Tensor, targets: Tensor, penalties: Sequence[float] = PENALTIES) -> tuple[Tensor, Tensor, float]:
    """Fit features (n, D) to targets (n, outputs) by ridge regression; the penalty has the least leave-one-out error.

    Returns:
        w (D, outputs), the free b (outputs,), and the penalty of |w|^2.
    """
    centre, level = features.mean(0), targets.mean(0)
    x, y = features - centre, targets - level
    energy, basis = torch.linalg.eigh(x.T @ x)
    energy = energy.clamp(min=0)
    turned = x @ basis  # (n, D)
    answers = turned.T @ y  # (D, outputs)
    best = (math.inf, x.new_zeros(x.shape[1], y.shape[1]), math.nan)
    for penalty in penalties:
        weight = answers / (energy + penalty)[:, None]
        leverage = (turned.square() / (energy + penalty)).sum(1) + 1 / len(x)
        error = ((y - turned @ weight) / (1 - leverage).clamp(min=1e-9)[:, None]).square().mean().item()
        if error < best[0]:
            best = (error, basis @ weight, penalty)
    return best[1], level - centre @ best[1], best[2]


def decode(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Train linear decoders of classes (n,) on (n, decoders, D), and read (m, decoders, D): classes (m, decoders).

    Ridge regression of one-hot targets; the largest wins.
    """
    targets = F.one_hot(labels).double()
    answers = []
    for x, unseen in zip(train.double().unbind(1), test.double().unbind(1), strict=True):
        mean, std = x.mean(0), x.std(0).clamp(min=1e-9)
        weight, bias, _ = ridge((x - mean) / std, targets)
        answers.append((((unseen - mean) / std) @ weight + bias).argmax(1))
    return torch.stack(answers, 1)


@torch.inference_mode()
def decode_rates(clips: int, seed: int, models: Sequence[TokenMap]) -> tuple[NDArray[np.int64], Answers]:
    """Run the first experiment once: which of the folded rates does a linear decoder read from the tokens?

    `clips` sounds of each rate train the decoders, half as many others test them.

    Returns:
        The class of each test sound (m,), in the order of `RATES`; by (name, read-out) the answers (m, decoders).
    """
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor(RATES)
    log_mel = LogMel()
    spectrograms, labels = [], []
    for count in (clips, -(-clips // 2)):
        label = torch.arange(len(rates)).repeat_interleave(count)
        parts = (modulated_tones(part, SAMPLES, generator) for part in rates[label].split(_BATCH))
        spectrograms.append(torch.cat([log_mel(part) for part in parts]))
        labels.append(label)
    mean, std = spectrograms[0].mean().item(), spectrograms[0].std().item()
    answers = {}
    for token_map in (untrained_tokens(mean, std, seed), *models):
        train, test = (_read_outs(token_map, spectrogram) for spectrogram in spectrograms)
        answers.update({key: decode(train[key], labels[0], test[key]).numpy() for key in train})
    return labels[1].numpy(), answers


def _read_outs(token_map: TokenMap, spectrograms: Tensor) -> dict[tuple[str, str], Tensor]:
    parts: dict[tuple[str, str], list[Tensor]] = {}
    for batch in spectrograms.split(_BATCH):
        for name, tokens in token_map(batch).items():
            for kind, values in read_out(tokens).items():
                parts.setdefault((name, kind), []).append(values)
    return {key: torch.cat(values) for key, values in parts.items()}


@torch.inference_mode()
def shift_sounds(sounds: Tensor, seed: int, models: Sequence[TokenMap]) -> Distances:
    """Run the second experiment once: how far do the vectors of a crop move when it starts a little later?

    Sounds are (B, `SHIFTED_SAMPLES`), B at least 2. Of the kinds, "mean" compares the mean token, and "token" the
    tokens place by place.
    """
    log_mel = LogMel()
    starts = [shift * FRONT_END.hop_length for shift in SHIFTS]
    spectrograms = [log_mel(sounds[:, start : start + SAMPLES]) for start in starts]
    mean, std = spectrograms[0].mean().item(), spectrograms[0].std().item()
    distances = {}
    for token_map in (untrained_tokens(mean, std, seed), *models):
        by_shift = [token_map(spectrogram) for spectrogram in spectrograms]
        for name in by_shift[0]:
            vectors = torch.stack([tokens[name].flatten(1, 2) for tokens in by_shift]).double()  # (S, B, N, D)
            distances[name, "mean"] = relative_distances(vectors.mean(2, keepdim=True))
            if vectors.shape[2] > 1:
                distances[name, "token"] = relative_distances(vectors)
    return distances


def relative_distances(vectors: Tensor) -> NDArray[np.float64]:
    """Compare vectors (S, B, N, D) with the unshifted first: cosine distance over that between sounds, (S, B).

    The mean over N: 0 where nothing moved, 1 where a sound is as far from itself as from the others.
    """
    unit = F.normalize(vectors, dim=-1)
    moved = (1 - (unit * unit[0]).sum(-1)).mean(-1)  # (S, B)
    pairs = 1 - torch.einsum("bnd,cnd->bcn", unit[0], unit[0]).mean(-1)  # (B, B)
    between = (pairs.sum() - pairs.trace()) / (len(pairs) * (len(pairs) - 1))
    return (moved / between).numpy()


def measure(
    recordings: Sequence[Tensor], clips: int, sounds: int, models: Sequence[TokenMap], progress: Progress
) -> tuple[Rows, dict[str, Rows]]:
    """Run both experiments once for each seed from 0 up.

    Args:
        recordings: for each seed, sounds to shift (B, `SHIFTED_SAMPLES`).
        clips: training sounds of each rate.
        sounds: AM tones to shift.
        models: beside the untrained stems.
        progress: called three times for each seed.

    Returns:
        Rows of `summarise_decoding`; and by kind of sound the rows of `summarise_shifts`.
    """
    decoded, tones, recorded = [], [], []
    total = 3 * len(recordings)
    for seed, recording in enumerate(recordings):
        decoded.append(decode_rates(clips, seed, models))
        progress(3 * seed + 1, total)
        tones.append(shift_sounds(random_tones(sounds, seed), seed, models))
        progress(3 * seed + 2, total)
        recorded.append(shift_sounds(recording, seed, models))
        progress(3 * seed + 3, total)
    shifts = {"AM tones": summarise_shifts(tones), "recordings": summarise_shifts(recorded)}
    return summarise_decoding(decoded), shifts


def summarise_decoding(runs: Sequence[tuple[NDArray[np.int64], Answers]]) -> Rows:
    """Return one row per tokens and read-out: mean, lowest and highest accuracy of the runs of `decode_rates`.

    Rows of the mean token have the counts (rates, rates) of all runs too: true rate by row, decoded rate by column.
    """
    rows = []
    for name, kind in runs[0][1]:
        shares = [float((answers[name, kind] == labels[:, None]).mean()) for labels, answers in runs]
        row = {"tokens": name, "read_out": kind, "accuracy": float(np.mean(shares)), "by_seed": shares}
        row |= {"lowest": min(shares), "highest": max(shares)}
        if kind == "mean":
            counts = [confusion_matrix(labels, answers[name, kind][:, 0], len(RATES)) for labels, answers in runs]
            row["confusion"] = np.sum(counts, axis=0)
        rows.append(row)
    return rows


def summarise_shifts(runs: Sequence[Distances]) -> Rows:
    """Return one row per tokens and kind: quartiles of the distances of all sounds of the runs of `shift_sounds`."""
    rows = []
    for name, kind in runs[0]:
        low, median, high = np.quantile(np.concatenate([run[name, kind] for run in runs], axis=1), (0.25, 0.5, 0.75), 1)
        rows.append({"tokens": name, "compared": kind, "lower_quartile": low, "median": median, "upper_quartile": high})
    return rows
