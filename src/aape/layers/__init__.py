"""The parts of an audio Vision Transformer: both stems and the blocks behind them."""

from aape.layers.aape import AaPE
from aape.layers.patch_embed import PatchEmbed

__all__ = ["AaPE", "PatchEmbed"]
