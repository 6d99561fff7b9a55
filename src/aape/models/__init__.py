"""Whole networks: the encoder, the predictors, and how they are saved."""
