"""The recipes: ways to store the numbers of a decoder, as `doge-export --help` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rounding = Literal["none", "nearest", "calibrated", "kept"]

ROLES = ("q", "k", "v", "o", "gate_up", "down")  # of the rows of a layer's matrices; the mask belongs to v
WIDE_BITS = 8  # of rows that need more than 4
LEAST_BITS, MOST_BITS = 4.625, 8.25  # of a weight in an int4 file, with its share of scales and zero points
DEFAULT_BITS = 5.4  # mean over the weights in layers of an --int4 file
CALIBRATION_TOKENS = 32768


@dataclass(frozen=True)
class Recipe:
    """One way to store a decoder.

    Attributes:
        name: of the option, and of the folder's end.
        summary: for --help.
        rounding: none (float numbers), nearest, calibrated (GPTQ on a text), or kept (a GGUF file's own numbers).
    """

    name: str
    summary: str
    rounding: Rounding

    @property
    def kv_float16(self) -> bool:
        """Whether DogeStep keeps keys and values in float16: where the weights are in blocks of few bits."""
        return self.rounding != "none"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("int8", "Large matrices in 8 bits, rounded to the nearest (the default).", "nearest"),
        Recipe(
            "int4",
            "Layers in 4 bits, the rows that need it in 8, rounded by a calibration text (GPTQ); embedding and output "
            "in 8. Takes minutes.",
            "calibrated",
        ),
        Recipe("fp16", "Large matrices in float16 on disk, in float32 in memory.", "none"),
        Recipe("fp32", "Everything in float32.", "none"),
        Recipe(
            "keep-grid", "The numbers of a Q4_0, Q4_1 or Q8_0 GGUF file as they are, nothing rounded again.", "kept"
        ),
    )
}
DEFAULT = next(iter(RECIPES))
