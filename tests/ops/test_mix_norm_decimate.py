"""C, GroupNorm and the depthwise convolution: the definition against a loop, the fold against the definition."""

import math

import pytest
import torch
from torch import nn

from aape.ops import mix_norm_decimate, use_reference

NUM_FREQ, NUM_TIME = 3, 4


def inputs(num_out=16, hidden=5, width=7, frequency_patch=None, scale=1.0, seed=0):
    """Magnitudes of 2 views (float64) with their frequency patches, and weights; by default all patches, in order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if frequency_patch is None:
        frequency_patch = torch.arange(NUM_FREQ).repeat_interleave(NUM_TIME).expand(2, -1)
    m = scale * draw(*frequency_patch.shape, num_out, hidden).abs()
    channels = NUM_FREQ * width
    return (
        m,
        frequency_patch,
        draw(channels, hidden, 1),
        1 + 0.3 * draw(channels),
        draw(channels),
        draw(channels, 1, num_out),
    )


def hidden_patches(num_visible=11, seed=1):
    """Frequency patches of 2 views in no order; the second sees nothing of the last one, and once of the first."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(NUM_FREQ, (num_visible,), generator=generator)
    second = torch.ones_like(first).index_fill(0, torch.tensor([3]), 0)
    return torch.stack([first, second])


def brute_force(m, frequency_patch, mix, weight, bias, taps, eps=1e-5):
    """The sums of the method, one number at a time."""
    num_views, num_patches, num_out, hidden = m.shape
    width = len(mix) // NUM_FREQ
    z = torch.zeros(num_views, num_patches, width, dtype=torch.float64)
    for view in range(num_views):
        for f in range(NUM_FREQ):
            patches = [v for v in range(num_patches) if frequency_patch[view, v] == f]
            y = {
                (v, q, c): sum(mix[f * width + c, h, 0].item() * m[view, v, q, h].item() for h in range(hidden))
                for v in patches
                for q in range(num_out)
                for c in range(width)
            }
            mean = sum(y.values()) / max(len(y), 1)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in y.values()) / max(len(y), 1) + eps)
            for v in patches:
                for c in range(width):
                    at = f * width + c
                    z[view, v, c] = sum(
                        taps[at, 0, q].item() * ((y[v, q, c] - mean) / deviation * weight[at] + bias[at]).item()
                        for q in range(num_out)
                    )
    return z


@pytest.mark.parametrize("patches", [None, hidden_patches()], ids=["all", "visible"])
@pytest.mark.parametrize("num_out", [1, 4, 16])
def test_the_definition_equals_a_loop(patches, num_out):
    """The fast form is compared with this definition, which has to be right itself, with empty groups too."""
    arguments = inputs(num_out, frequency_patch=patches)
    with use_reference():
        got = mix_norm_decimate(*arguments, num_freq=NUM_FREQ)
    torch.testing.assert_close(got, brute_force(*arguments), rtol=1e-11, atol=1e-11)


def test_the_definition_is_the_plain_modules():
    """Where nothing is hidden it is Conv1d, GroupNorm and Conv1d, as the figure draws them."""
    num_out, width = 8, 7
    m, f, mix, weight, bias, taps = inputs(num_out, width=width)
    channels = len(mix)
    modules = nn.Sequential(
        nn.Conv1d(NUM_FREQ * 5, channels, 1, groups=NUM_FREQ, bias=False),
        nn.GroupNorm(NUM_FREQ, channels),
        nn.Conv1d(channels, channels, num_out, stride=num_out, groups=channels, bias=False),
    ).double()
    for parameter, value in zip(modules.parameters(), (mix, weight, bias, taps), strict=True):
        parameter.data = value
    frames = m.unflatten(1, (NUM_FREQ, NUM_TIME)).flatten(2, 3).transpose(2, 3).flatten(1, 2)  # (views, Nf H, Nt Q)
    expected = modules(frames).unflatten(1, (NUM_FREQ, width)).transpose(2, 3).flatten(1, 2)
    for in_order in (True, False):
        got = mix_norm_decimate(m, f, mix, weight, bias, taps, num_freq=NUM_FREQ, in_order=in_order)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("patches", "in_order"),
    [(None, True), (None, False), (hidden_patches(), False), (hidden_patches(150), False), (hidden_patches(4), False)],
    ids=["in order", "all", "visible", "more than a block", "few"],
)
@pytest.mark.parametrize(("num_out", "hidden", "width"), [(16, 5, 7), (8, 1, 3), (4, 16, 2), (1, 3, 24)])
def test_the_fold_equals_the_definition_and_its_gradients(patches, in_order, num_out, hidden, width):
    """The fold would train another model if it differed: values and all gradients, at uneven sizes."""
    arguments = inputs(num_out, hidden, width, patches)
    leaves = [x.requires_grad_() for x in arguments if x.is_floating_point()]
    with use_reference():
        expected = mix_norm_decimate(*arguments, num_freq=NUM_FREQ)
    got = mix_norm_decimate(*arguments, num_freq=NUM_FREQ, in_order=in_order)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn(got.shape, dtype=torch.float64)
    results = [torch.autograd.grad(z, leaves, grad) for z in (got, expected)]
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_views_may_have_any_dimensions_in_front():
    """A stem gives clips and views, (B, M, V, ...), and gets them back."""
    m, f, *weights = inputs(frequency_patch=hidden_patches())
    expected = mix_norm_decimate(m, f, *weights, num_freq=NUM_FREQ)
    both = mix_norm_decimate(m[:, None], f[:, None], *weights, num_freq=NUM_FREQ)
    assert torch.equal(both, expected[:, None])
    torch.testing.assert_close(mix_norm_decimate(m[0], f[0], *weights, num_freq=NUM_FREQ), expected[0])


@pytest.mark.parametrize("patches", [None, hidden_patches()], ids=["in order", "visible"])
@pytest.mark.parametrize("level", [0.0, 1e-12, 1.0, 1e15, 1e18, 1e30])
def test_statistics_survive_any_level(patches, level):
    """In float32, magnitudes beyond 1e19 have infinite squares, and very small ones a variance below eps."""
    arguments = inputs(frequency_patch=patches, scale=level)
    options = {"num_freq": NUM_FREQ, "in_order": patches is None}
    single = [x.float().requires_grad_() if x.is_floating_point() else x for x in arguments]
    got = mix_norm_decimate(*single, **options)
    torch.testing.assert_close(got.double(), mix_norm_decimate(*arguments, **options), rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert all(x.grad.isfinite().all() for x in single if x.is_floating_point())


def test_half_precision_is_computed_in_float32():
    """Statistics of magnitudes in bfloat16 would have two digits, also under autocast."""
    m, f, *weights = inputs()
    m, weights = m.bfloat16(), [x.float() for x in weights]
    expected = mix_norm_decimate(m.float(), f, *weights, num_freq=NUM_FREQ)
    for reference in (False, True):
        with torch.autocast("cpu", torch.bfloat16), use_reference() if reference else torch.enable_grad():
            got = mix_norm_decimate(m, f, *weights, num_freq=NUM_FREQ)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)


def test_what_does_not_fit_is_refused():
    """A wrong shape is named, not broadcast."""
    m, f, *weights = inputs()
    with pytest.raises(ValueError, match="does not fit magnitudes"):
        mix_norm_decimate(m, f[:1], *weights, num_freq=NUM_FREQ)
    with pytest.raises(ValueError, match="does not fit magnitudes"):
        mix_norm_decimate(m[:, :11], f[:, :11], *weights, num_freq=NUM_FREQ, in_order=True)
    for num_freq, changed in ((4, weights), (NUM_FREQ, [weights[0], *weights[1:3], weights[3][..., :8]])):
        with pytest.raises(ValueError, match="expected weights of"):
            mix_norm_decimate(m, f, *changed, num_freq=num_freq)
