"""The Vision Transformer over spectrogram patches, in training and in use (docs/method.md 6)."""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import Tensor, nn

from aape.layers.aape import AaPE
from aape.layers.patch_embed import PatchEmbed, Stem
from aape.layers.transformer import NORM_EPS, Block, init_transformer_weights
from aape.models.config import EncoderConfig

_AAPE_OPTIONS = ("adaptive", "phase", "kernel_size", "stride", "hidden_dim", "sblu_dim", "mask_context", "decay_start")

if hasattr(os, "register_at_fork"):
    # A fork copies one thread. OpenMP would wait for its others forever: the child has to compute alone.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def build_stem(config: EncoderConfig) -> Stem:
    """Build the stem that `config.stem` names."""
    sizes = (config.n_mels, config.num_frames), config.patch_size, 1, config.embed_dim
    if config.stem == "patch":
        return PatchEmbed(*sizes, pos_trainable=config.pos_trainable)
    lambda_shape = config.lambda_dim, config.lambda_depth, config.lambda_heads
    options = {name: getattr(config, name) for name in _AAPE_OPTIONS}
    return AaPE(*sizes, lambda_shape=lambda_shape, pos_trainable=config.pos_trainable, **options)


class AudioEncoder(nn.Module):
    """Stem, class token (without a position), pre-norm blocks, final LayerNorm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.patch_size = config.embed_dim, config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        nn.init.normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=NORM_EPS)
        self.apply(init_transformer_weights)
        self.stem = build_stem(config)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode all patches or the visible ones.

        Args:
            spectrogram: (B, 1, F, T), standardised log-mel of any length; zero-padded to a whole patch.
            visible: sorted token indices (B, V), or (B, M, V) for M views of each clip.

        Returns:
            Tokens after the final norm, the class token first: (B, 1 + N, D), (B, 1 + V, D) or (B, M, 1 + V, D).
        """
        x = self._with_cls_token(self.stem(spectrogram, visible))
        views, x = x.shape[:-2], x.flatten(0, -3)  # which are clips to the blocks
        for block in self.blocks:
            x = block(x)
        return self.norm(x).unflatten(0, views)

    forward_features = forward

    def forward_layers(self, spectrogram: Tensor, layers: Collection[int]) -> list[Tensor]:
        """Encode all patches, and return the outputs of several blocks after the final norm [ours].

        Args:
            spectrogram: (B, 1, F, T), as for `forward`.
            layers: blocks, counted from 1; of the last the output is that of `forward`. Later ones are not computed.

        Returns:
            Tokens (B, 1 + N, D) of each of these blocks, in the order of depth.
        """
        x = self._with_cls_token(self.stem(spectrogram))
        outputs = []
        for number, block in enumerate(self.blocks[: max(layers)], start=1):
            x = block(x)
            if number in layers:
                outputs.append(self.norm(x))
        return outputs

    def forward_hidden(self, spectrogram: Tensor) -> list[Tensor]:
        """Encode all patches, and return what goes into each block and out of the last, before the final norm.

        Args:
            spectrogram: (B, 1, F, T), as for `forward`.

        Returns:
            Tokens (B, 1 + N, D): embeddings, then one tensor per block.
        """
        states = [self._with_cls_token(self.stem(spectrogram))]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward_targets(self, spectrogram: Tensor, target: str = "block") -> list[Tensor]:
        """Run every patch and no class token, and return what the teacher's targets are made of.

        Args:
            spectrogram: (B, 1, F, T).
            target: "block" for each block's output, before the final norm; "ffn" for its feed-forward part (EAT).

        Returns:
            One tensor (B, N, D) per block.
        """
        x = self.stem(spectrogram)
        outputs = []
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.attend(x)
            update = block.feed_forward(x)
            x = x + update
            outputs.append(x if target == "block" else update)
        return outputs

    def _with_cls_token(self, tokens: Tensor) -> Tensor:
        """Put the class token first: (..., N, D) -> (..., 1 + N, D)."""
        return torch.cat([self.cls_token.to(tokens.dtype).expand(*tokens.shape[:-2], 1, -1), tokens], -2)
