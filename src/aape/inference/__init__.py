"""From sound to vectors and labels: a saved model used on arrays, files, folders and recordings of any length."""

from aape.inference.model import AudioModel, load_model, random_model
from aape.inference.predictions import Classification, Prediction

__all__ = ["AudioModel", "Classification", "Prediction", "load_model", "random_model"]
