"""From sound to vectors and labels: a saved model used on arrays, files, folders and recordings of any length."""

from aape.inference.events import Event, events, label_track
from aape.inference.labels import Classification, Prediction
from aape.inference.loading import load_model, random_model
from aape.inference.model import AudioModel

__all__ = ["AudioModel", "Classification", "Event", "Prediction", "events", "label_track", "load_model", "random_model"]
