"""For sentence-transformers with trust_remote_code=True: the class is that of the package aape."""

from aape.adapters.sentence_transformers import AaPETransformer

__all__ = ["AaPETransformer"]
