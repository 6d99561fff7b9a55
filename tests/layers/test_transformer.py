"""Drop path, of the blocks that every encoder is made of."""

import pytest
import torch

from aape.downstream.finetuning import Classifier
from aape.layers.transformer import DropPath
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder


def test_drop_path_leaves_out_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    assert layer.eval()(x) is x
    out = layer.train()(x)
    values = out.flatten(1)
    assert (values == values[:, :1]).all()
    torch.testing.assert_close(values[:, 0].unique(), torch.tensor([0.0, 1 / 0.75]))
    assert out.mean() == pytest.approx(1, abs=0.03)
    blocks = Classifier(AudioEncoder(encoder_config("nano")), 2, 0.1).encoder.blocks
    assert [block.drop_path.rate for block in blocks] == [0.05, 0.1]
