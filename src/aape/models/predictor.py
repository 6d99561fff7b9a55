"""What the student predicts the hidden tokens with: two forms, one call (docs/method.md 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.layers.patch_embed import gather_tokens
from aape.layers.positions import sincos_2d
from aape.layers.transformer import NORM_EPS, CrossBlock, init_transformer_weights
from aape.models.config import PredictorConfig


class CrossAttentionPredictor(nn.Module):
    """Mask token plus position as queries; keys and values straight from the encoder's output; queries never meet.

    Args:
        embed_dim: D of the encoder.
        grid_size: (Nf, Nt).
        width: of its blocks; 0 for 2D/3 in whole heads, or 64 where D is at most 64.
        depth: number of blocks; 0 for 3.
        num_heads: heads per block; 0 for heads of 32 channels, or 64 where D is at most 64.
    """

    def __init__(
        self, embed_dim: int, grid_size: tuple[int, int], width: int = 0, depth: int = 0, num_heads: int = 0
    ) -> None:
        super().__init__()
        width = width or (64 if embed_dim <= 64 else 32 * round(embed_dim / 48))  # a multiple of its heads
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_2d(width, grid_size).flatten(0, 1), persistent=False)
        heads = num_heads or width // (64 if embed_dim <= 64 else 32)
        self.blocks = nn.ModuleList(CrossBlock(width, embed_dim, heads) for _ in range(depth or 3))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, embed_dim)
        self.apply(init_transformer_weights)

    positions: Tensor

    def forward(self, tokens: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
        """Predict the pooled tokens at `queries` of all views, (B M, Q) -> (B M, Q, D).

        Args:
            tokens: encoded visible patches (B M, V, D), without the class token.
            visible: their indices (B M, V); not needed here, since the encoder's output carries positions.
            queries: indices to predict (B M, Q).
        """
        x = self.mask_token + self.positions[queries]  # (B M, Q, width)
        for block in self.blocks:
            x = block(x, tokens)
        return self.head(self.norm(x))


class ConvPredictor(nn.Module):
    """EAT's: hidden positions filled with noise, then grouped convolutions over the token grid.

    Args:
        embed_dim: D of the encoder.
        grid_size: (Nf, Nt).
        depth: number of convolutions; 0 for 6.
    """

    def __init__(self, embed_dim: int, grid_size: tuple[int, int], depth: int = 0) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.convs = nn.ModuleList(nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=16) for _ in range(depth or 6))
        self.head = nn.Linear(embed_dim, embed_dim)
        self.apply(init_transformer_weights)

    def forward(self, tokens: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
        """Predict the pooled tokens at `queries`; arguments as in `CrossAttentionPredictor.forward`."""
        num_freq, num_time = self.grid_size
        num_views, _, embed_dim = tokens.shape
        grid = torch.randn(num_views, num_freq * num_time, embed_dim, device=tokens.device) * 0.01  # mask tokens
        grid = grid.to(tokens.dtype).scatter(1, visible[..., None].expand(-1, -1, embed_dim), tokens)
        x = grid.transpose(1, 2).unflatten(2, self.grid_size)  # (B M, D, Nf, Nt)
        for conv in self.convs:
            y = F.layer_norm(conv(x).movedim(1, -1), (embed_dim,)).movedim(-1, 1)
            x = x + F.gelu(y)
        return self.head(gather_tokens(x.flatten(2).transpose(1, 2), queries))


def build_predictor(
    config: PredictorConfig, embed_dim: int, grid_size: tuple[int, int]
) -> CrossAttentionPredictor | ConvPredictor:
    """Build the predictor that `config.kind` names for an encoder of width D on a grid (Nf, Nt)."""
    if config.kind == "cnn":
        return ConvPredictor(embed_dim, grid_size, config.depth)
    return CrossAttentionPredictor(embed_dim, grid_size, config.width, config.depth, config.num_heads)
