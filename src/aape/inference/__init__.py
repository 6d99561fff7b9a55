"""From sound to vectors and labels: a saved model used on arrays, files, folders and recordings of any length."""

from aape.inference.labels import Classification, Prediction
from aape.inference.model import AudioModel, load_model, random_model

__all__ = ["AudioModel", "Classification", "Prediction", "load_model", "random_model"]
