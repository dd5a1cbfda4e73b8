"""The decoder by onnxruntime's products and DynamicMaskAttention: the graph of decoders that DogeStep does not compute.

docs/operators.md describes the operator. It writes and evicts as DogeStep does, so states are the same. Products are
onnxruntime's, which may round several rows otherwise than one.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import onnxruntime as ort

from .description import LAYERED_FILE, DecoderDescription
from .eviction import Keys
from .exactness import Exactness
from .step_graph import StepGraph
from .steps import Arrays


class LayeredGraph(StepGraph):
    """See `Graphs`."""

    file: ClassVar[str] = LAYERED_FILE
    operator: ClassVar[str] = "DynamicMaskAttention"
    cuts_freely = False

    @staticmethod
    def order(keys: Keys) -> Arrays:
        """An array of each layer."""
        precedence = {f"precedence.{layer}": rows for layer, rows in enumerate(keys.precedence)}
        return precedence | {f"positions.{layer}": rows for layer, rows in enumerate(keys.positions)}

    def _take(self, session: ort.InferenceSession, library: Path, description: DecoderDescription) -> None:
        super()._take(session, library, description)
        self.drafts = Exactness("prompt lookup and assistants are off")
        self.batches = Exactness("the rows of a batch are computed one by one")
