"""Two switches over all operators: compute by the definition, or trace for export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """Off, but on in `with switch():`."""

    is_on = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Turn it on for a block of code."""
        before, self.is_on = self.is_on, True
        try:
            yield
        finally:
            self.is_on = before


use_reference = Switch()  # every operator by its definition, slowly: to find out whether a fast form is at fault
exportable = Switch()  # PyTorch's own operators only, in one graph for all lengths: for torch.export and ONNX
