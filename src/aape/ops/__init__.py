"""The signal processing of Figure 3 (SBLU is Eq. 2 to 4). Each operator has a definition, and faster forms of it."""

from aape.ops.high_pass import high_pass
from aape.ops.mix_norm_decimate import mix_norm_decimate
from aape.ops.sblu import sblu_magnitude, sblu_magnitude_at
from aape.ops.sblu_reference import SbluOptions
from aape.ops.switches import exportable, use_reference

__all__ = [
    "SbluOptions",
    "exportable",
    "high_pass",
    "mix_norm_decimate",
    "sblu_magnitude",
    "sblu_magnitude_at",
    "use_reference",
]
