"""Every option of the package as frozen dataclasses, with the paper's value as the default where it is known.

`method` in the docstrings is the definition in docs/method.md; [ours] marks a default the paper does not state.
"""

from aape.config.commands import (
    ClassifyConfig,
    DemoConfig,
    EmbedConfig,
    LossConfig,
    MaskingConfig,
    OptimConfig,
    PredictorConfig,
    PretrainConfig,
    ProbeConfig,
    WatchConfig,
)
from aape.config.corpora import DataCheckConfig, DataPackConfig, StatsConfig
from aape.config.figures import ExportConfig, PlotAliasingConfig, PlotClipConfig, PlotRunConfig, PlotWindowsConfig
from aape.config.finetuning import AugmentConfig, FinetuneConfig, FinetuneOptimConfig, QueueConfig, TableConfig
from aape.config.model import (
    MODEL_SIZES,
    EncoderConfig,
    FrontEndConfig,
    encoder_config,
)

__all__ = [
    "MODEL_SIZES",
    "AugmentConfig",
    "ClassifyConfig",
    "DataCheckConfig",
    "DataPackConfig",
    "DemoConfig",
    "EmbedConfig",
    "EncoderConfig",
    "ExportConfig",
    "FinetuneConfig",
    "FinetuneOptimConfig",
    "FrontEndConfig",
    "LossConfig",
    "MaskingConfig",
    "OptimConfig",
    "PlotAliasingConfig",
    "PlotClipConfig",
    "PlotRunConfig",
    "PlotWindowsConfig",
    "PredictorConfig",
    "PretrainConfig",
    "ProbeConfig",
    "QueueConfig",
    "StatsConfig",
    "TableConfig",
    "WatchConfig",
    "encoder_config",
]
