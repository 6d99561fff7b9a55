"""From sound to vectors and labels: a saved model used on arrays, files, folders and recordings of any length."""

from aape.inference.labels import Classification, Prediction
from aape.inference.loading import load_model, random_model
from aape.inference.model import AudioModel

__all__ = ["AudioModel", "Classification", "Prediction", "load_model", "random_model"]
