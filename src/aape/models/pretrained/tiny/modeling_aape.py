"""For transformers with trust_remote_code=True: the classes of this model are those of the package aape."""

from aape.huggingface import AaPEConfig, AaPEFeatureExtractor, AaPEForAudioClassification, AaPEForPreTraining, AaPEModel

__all__ = ["AaPEConfig", "AaPEFeatureExtractor", "AaPEForAudioClassification", "AaPEForPreTraining", "AaPEModel"]
