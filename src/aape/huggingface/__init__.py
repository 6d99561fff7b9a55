"""`import aape.huggingface` makes transformers' Auto classes read the models of this package."""

from __future__ import annotations

try:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioClassification,
        AutoModelForPreTraining,
        AutoProcessor,
    )
except ImportError as error:
    raise ImportError("aape.huggingface needs transformers: pip install 'aape[hub]'") from error

from aape.huggingface.configuration import AaPEConfig
from aape.huggingface.feature_extractor import AaPEFeatureExtractor
from aape.huggingface.models import AaPEForAudioClassification, AaPEModel
from aape.huggingface.pretraining import AaPEForPreTraining

__all__ = ["AaPEConfig", "AaPEFeatureExtractor", "AaPEForAudioClassification", "AaPEForPreTraining", "AaPEModel"]

AutoConfig.register(AaPEConfig.model_type, AaPEConfig, exist_ok=True)
AutoModel.register(AaPEConfig, AaPEModel, exist_ok=True)
AutoModelForPreTraining.register(AaPEConfig, AaPEForPreTraining, exist_ok=True)
AutoModelForAudioClassification.register(AaPEConfig, AaPEForAudioClassification, exist_ok=True)
AutoFeatureExtractor.register(AaPEConfig, AaPEFeatureExtractor, exist_ok=True)
AutoProcessor.register(AaPEConfig, AaPEFeatureExtractor, exist_ok=True)  # or it looks for one of images in the folder
