"""The signal-processing operators of the method. Each has one definition; faster forms compute the same."""

from aape.ops.high_pass import high_pass
from aape.ops.sblu import sblu_magnitude, sblu_magnitude_at, use_reference

__all__ = ["high_pass", "sblu_magnitude", "sblu_magnitude_at", "use_reference"]
