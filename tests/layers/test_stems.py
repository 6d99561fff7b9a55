"""Both stems: the paper's counts, the definitions, masking, and which token sees what."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aape import AaPE, PatchEmbed
from aape.ops import use_reference


def count(module):
    return sum(p.numel() for p in module.parameters())


def small(seed=0, **options):
    torch.manual_seed(seed)
    stem = AaPE((128, 96), embed_dim=32, lambda_shape=(32, 1, 1), sblu_dim=24, **options).double()
    nn.init.normal_(stem.norm.weight, 1.0, 0.3)
    nn.init.normal_(stem.norm.bias)
    return stem


def test_parameter_counts_are_the_papers():
    """0.43 M, 1.16 M and 1.86 M: what makes the model comparable."""
    assert [count(PatchEmbed()), count(AaPE(adaptive=False)), count(AaPE())] == [430_848, 1_158_656, 1_855_776]


@pytest.mark.parametrize("options", [{}, {"phase": "analytic"}, {"stride": 2}, {"stride": 4, "kernel_size": 31},
                                     {"adaptive": False, "kernel_size": 127}])  # fmt: skip
def test_fast_forms_equal_the_definitions(options):
    """High-pass, SBLU and the fold behind it change nothing, in values or gradients.

    Nor does asking for every patch by its index.
    """
    stem, x = small(**options), torch.randn(2, 1, 128, 96, dtype=torch.float64)
    every = torch.arange(48).expand(2, -1)
    results = []
    for visible, context in ((None, use_reference()), (None, nullcontext()), (every, nullcontext())):
        stem.zero_grad()
        with context:
            tokens = stem(x, visible)
        tokens.square().sum().backward()
        results.append([tokens, *(p.grad.clone() for p in stem.parameters() if p.grad is not None)])
    for expected, *others in zip(*results, strict=True):
        for got in others:
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_the_whole_stem_compiles_and_runs_in_half_precision():
    """torch.compile finds no break in it; bfloat16 under autocast leaves SBLU and the statistics in float32."""
    stem, x = small().float(), torch.randn(2, 1, 128, 96)
    visible = torch.tensor([[[0, 1, 7, 12], [0, 1, 7, 13]]]).expand(2, -1, -1)
    compiled = torch.compile(stem, fullgraph=True, backend="aot_eager")
    for arguments in ((x,), (x, visible)):
        expected = stem(*arguments)
        torch.testing.assert_close(compiled(*arguments), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = stem(*arguments)
        assert (half.float() - expected).square().mean().sqrt() < 0.03 * expected.square().mean().sqrt()


def test_masked_stem_equals_the_full_one_on_fully_visible_rows():
    """The student would be trained on other tokens than the encoder gives later."""
    stem, x = small(adaptive=False), torch.randn(2, 1, 128, 96, dtype=torch.float64)
    visible = torch.tensor([[0, 1, 2, 3, 4, 5, 9, 40], [0, 1, 2, 3, 4, 5, 20, 30]]).expand(2, 2, 8)
    torch.testing.assert_close(stem(x, visible)[:, :, :6], stem(x)[:, None, :6].expand(-1, 2, -1, -1))
    torch.testing.assert_close(stem(x, visible[:, 0]), stem(x, visible)[:, 0])


@pytest.mark.parametrize(("mask_context", "leaks"), [(True, False), (False, True)])
def test_mask_context_decides_whether_hidden_frames_reach_the_student(mask_context, leaks):
    """The option that closes the leak closes it, and without it there is one."""
    stem, x = small(mask_context=mask_context), torch.randn(1, 1, 128, 96, dtype=torch.float64)
    visible = torch.tensor([[[0, 1, 7, 12], [0, 1, 7, 12]]])
    changed = x.clone()
    changed[:, :, :16, 32:48] += 1.0  # token 2, hidden
    assert (stem(x, visible) - stem(changed, visible)).abs().max().gt(1e-9) == leaks


def test_a_change_moves_what_it_should():
    """Token order is f Nt + t, and nothing crosses frequency patches before the Transformer."""
    x = torch.randn(1, 1, 128, 96, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 3 * 16 : 4 * 16, 2 * 16 : 3 * 16] += 1.0
    standard, banded = PatchEmbed((128, 96), embed_dim=32).double(), small(adaptive=False)
    moved = (standard(x) - standard(changed)).abs().amax(-1)[0] > 1e-9
    assert moved.nonzero().flatten().tolist() == [3 * 6 + 2]
    moved = (banded(x) - banded(changed)).abs().amax(-1)[0].view(8, 6) > 1e-9
    assert moved.any(1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("frames", [1, 16, 17, 112, 200])
def test_any_length_from_one_frame_up(frames):
    """Shorter and longer than the position table, and padded to whole patches as zeros would be."""
    stem, x = small(), torch.randn(2, 1, 128, frames, dtype=torch.float64)
    tokens = stem(x)
    assert tokens.shape == (2, 8 * -(-frames // 16), 32)
    torch.testing.assert_close(tokens, stem(F.pad(x, (0, -frames % 16))))
    torch.testing.assert_close(tokens[1:], stem(x[1:]))  # a clip does not depend on its neighbours


@pytest.mark.parametrize(("options", "message"), [({"kernel_size": 4}, "odd"), ({"stride": 3}, "stride"),
                                                  ({"phase": "x"}, "phase"), ({"in_chans": 3}, "one channel"),
                                                  ({"decay_start": 0.0}, "decay_start"),
                                                  ({"patch_size": 0}, "divide"),
                                                  ({"img_size": (100, 96)}, "divide")])  # fmt: skip
def test_impossible_stems_are_refused(options, message):
    """A wrong option is named where the model is built."""
    with pytest.raises(ValueError, match=message):
        AaPE(**options)


@pytest.mark.parametrize("adaptive", [True, False])
def test_kernels_start_where_the_options_say(adaptive):
    """Windows that start too short cannot tell rates apart, and training hardly lengthens them."""
    stem = small(adaptive=adaptive, decay_start=0.02)
    decay, frequency = stem.kernels(torch.randn(2, 1, 128, 96, dtype=torch.float64))
    lowest = -2 * torch.tensor(0.01).log().item() / 62
    assert (decay - lowest).mean().item() == pytest.approx(0.02, abs=0.005)
    assert frequency.amin() < 0.35
    assert frequency.amax() > 2.9


LAMBDA = {
    True: [f"lambda_encoder.{name}.{part}" for name in ("embed", "blocks.0.norm1", "blocks.0.attn.qkv",
           "blocks.0.attn.proj", "blocks.0.norm2", "blocks.0.mlp.0", "blocks.0.mlp.2", "head")
           for part in ("weight", "bias")],
    False: ["lambda_encoder.raw"],
}  # fmt: skip


@pytest.mark.parametrize("adaptive", [True, False])
def test_weights_have_the_names_that_saved_models_have(adaptive):
    """A name that changes is a saved model that no longer loads, here or in transformers."""
    names = ["proj.weight", "proj.bias", "pos_embed.table", *LAMBDA[adaptive], "subbands.weight", "mix.weight",
             "norm.weight", "norm.bias", "decimate.weight", "norm_e.weight", "norm_e.bias", "norm_z.weight",
             "norm_z.bias", "fuse.weight", "fuse.bias"]  # fmt: skip
    stem = small(adaptive=adaptive)
    assert list(stem.state_dict()) == [name for name, _ in stem.named_parameters()] == names
    assert list(PatchEmbed((128, 96), embed_dim=32).state_dict()) == names[:3]


@pytest.mark.parametrize("stem", [AaPE, PatchEmbed])
def test_a_part_that_is_replaced_is_used(stem):
    """Adapters such as LoRA, and quantisation, put modules of their own in the place of ours."""
    stem, x = stem((128, 96), embed_dim=32), torch.randn(1, 1, 128, 96)
    before, pos_embed = stem(x), stem.pos_embed
    stem.proj = nn.Sequential(stem.proj, nn.Tanh())
    after = stem(x)
    assert not torch.allclose(after, before)
    stem.pos_embed = type(pos_embed)((8, 6), 32, trainable=True)
    nn.init.normal_(stem.pos_embed.table)
    assert not torch.allclose(stem(x), after)


def test_timm_contract():
    """What timm's VisionTransformer asks of `embed_layer`: its arguments, its attributes, its initialisation."""
    stem = AaPE(img_size=(128, 96), patch_size=16, in_chans=1, embed_dim=32, bias=True, dynamic_img_pad=False,
                strict_img_size=False, device="cpu", dtype=torch.float32)  # fmt: skip
    assert (stem.num_patches, stem.grid_size, stem.feat_ratio(), stem.proj.kernel_size) == (48, (8, 6), 16, (16, 16))
    with pytest.raises(TypeError, match="colour"):
        AaPE(colour=3)
    before = stem.lambda_encoder.head.weight.std()
    stem.lambda_encoder.head.weight.data.normal_()
    stem.lambda_encoder.init_weights()
    assert stem.lambda_encoder.head.weight.std() < 2 * before
