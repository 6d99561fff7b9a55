"""Both stems drop into timm's own Vision Transformers, and train there as they do here."""

from functools import partial

import pytest
import torch

import aape
from aape.runs.optim import adamw, layer_decay

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
STEMS = {"aape": aape.AaPE, "fixed": partial(aape.AaPE, adaptive=False), "patch": aape.PatchEmbed}
each_stem = pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)


def build(timm, stem, **options):
    torch.manual_seed(0)
    sizes = {"img_size": (128, 96), "in_chans": 1, "num_classes": 5, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_base_patch16_224", embed_layer=stem, **{"pos_embed": "none", **sizes, **options})


@pytest.mark.parametrize("stem", [aape.AaPE, aape.PatchEmbed])
def test_timm_builds_runs_and_trains_with_either_stem(timm, stem):
    """A timm user changes one argument."""
    model = build(timm, stem)
    logits = model(torch.randn(2, 1, 128, 96))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0
    for features in model.forward_intermediates(torch.randn(2, 1, 128, 100), intermediates_only=True):
        assert features.shape == (2, 64, 8, 7)  # any length, and maps of its own
    if stem is aape.AaPE:  # timm initialises every Linear; the bank still starts spread over its band
        assert model.patch_embed.lambda_encoder.head.weight.std() < 0.005
        assert model.patch_embed.lambda_encoder.head.bias[16:].diff().min() > 0


OPTIONS = [
    ({"pos_embed": "learn"}, 96),
    ({"pos_embed": "learn", "dynamic_img_size": True}, 64),
    ({"dynamic_img_size": True, "dynamic_img_pad": True}, 100),
]


@pytest.mark.parametrize(("options", "frames"), OPTIONS)
def test_timms_own_positions_and_sizes_go_with_the_stem(timm, options, frames):
    """With sizes of its own timm takes the tokens as a grid; flat ones ended in a traceback about unpacking."""
    assert build(timm, aape.AaPE, **options)(torch.randn(2, 1, 128, frames)).shape == (2, 5)


def test_what_is_missing_is_named(timm):
    """The first thing that anyone types has none of the three arguments of sound."""
    with pytest.raises(ValueError, match="AaPE got 3: add in_chans=1"):
        timm.create_model("vit_tiny_patch16_224", embed_layer=aape.AaPE)
    model = build(timm, aape.AaPE, img_size=224)
    with pytest.raises(ValueError, match=r"got \(2, 1, 128, 96\): build it with img_size=\(128, 224\)"):
        model(torch.randn(2, 1, 128, 96))


@each_stem
def test_a_step_of_timms_optimiser(timm, stem):
    """Layer-wise rates count the stem as layer 0, as fine-tuning does here, and every part of it learns."""
    model, x = build(timm, stem), torch.randn(4, 1, 128, 96)
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    rate_of = layer_decay(2, 0.75)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    for name in ("patch_embed.proj.weight", *(name for name in scales if name.startswith(("patch_embed", "blocks")))):
        assert scales[name] == rate_of(name.replace("patch_embed", "stem"))
    before = {name: p.detach().clone() for name, p in model.patch_embed.named_parameters() if p.requires_grad}
    model.set_grad_checkpointing()
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), torch.arange(4))
        loss.backward()
        optimizer.step()
    assert torch.nn.functional.cross_entropy(model(x), torch.arange(4)) < loss
    same = [name for name, p in model.patch_embed.named_parameters() if name in before and torch.equal(p, before[name])]
    assert same == []


@each_stem
def test_the_stem_says_what_must_not_decay(timm, stem):
    """Decay would pull the kernels to the middle of their band; with the line of docs/adapters.md timm leaves them."""
    model = build(timm, partial(stem, pos_trainable=True))
    skip = {"cls_token", *(f"patch_embed.{name}" for name in model.patch_embed.no_weight_decay())}
    model.no_weight_decay = lambda: skip
    theirs = timm.optim.create_optimizer_v2(model, opt="adamw", weight_decay=0.05)
    ours = adamw(model, learning_rate=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    decayed = [{id(p) for group in each.param_groups if group["weight_decay"] for p in group["params"]}
               for each in (theirs, ours)]  # fmt: skip
    assert decayed[0] == decayed[1]


@each_stem
def test_timm_changes_the_number_of_frames(timm, stem):
    """The model is then one that was made for that length, saved and loaded as such, and says the same as before."""
    model = build(timm, stem).eval()
    for frames in (160, 160, 32, 96):
        x = torch.randn(2, 1, 128, frames)
        expected = model(x)
        model.set_input_size(img_size=(128, frames))
        torch.testing.assert_close(model(x), expected)
        other = build(timm, stem, img_size=(128, frames)).eval()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(x), expected)
        assert (model.patch_embed.grid_size, model.patch_embed.num_patches) == ((8, frames // 16), 8 * frames // 16)
    model.patch_embed.set_input_size()
    model.set_input_size(patch_size=(16, 16))
    assert model.patch_embed.img_size == (128, 96)
    assert not model.patch_embed.pos_embed.table.requires_grad


@pytest.mark.parametrize("stem", [aape.AaPE, aape.PatchEmbed])
@pytest.mark.parametrize(("sizes", "message"), [({"img_size": (64, 96)}, "only the number of frames can change"),
                                                ({"img_size": 96}, "only the number of frames can change"),
                                                ({"patch_size": (8, 8)}, "only the number of frames can change"),
                                                ({"img_size": (128, 100)}, "divide the spectrogram")])  # fmt: skip
def test_timm_changes_nothing_else(timm, stem, sizes, message):
    """Weights of 128 bins cannot be those of 64: said before anything has changed."""
    model = build(timm, stem)
    with pytest.raises(ValueError, match=message):
        model.set_input_size(**sizes)
    assert (model.patch_embed.img_size, model.patch_embed.grid_size) == ((128, 96), (8, 6))
    assert model(torch.randn(2, 1, 128, 96)).shape == (2, 5)


def test_tokens_have_the_order_that_timm_asks_for():
    """A grid is frequency by time; what the stem cannot give is refused, and not given in another order."""
    x, stem = torch.randn(2, 1, 128, 100), aape.PatchEmbed((128, 96), embed_dim=32)
    grid = aape.PatchEmbed((128, 96), embed_dim=32, output_fmt="NHWC", flatten=False)
    grid.load_state_dict(stem.state_dict())
    assert torch.equal(grid(x), stem(x).unflatten(1, (8, 7)))
    assert torch.equal(grid(x, torch.tensor([[0, 9]] * 2)), stem(x)[:, [0, 9]])
    for options in ({"output_fmt": "NCHW"}, {"flatten": False}):
        with pytest.raises(ValueError, match="as NLC or NHWC, not as NCHW"):
            aape.AaPE(**options)
