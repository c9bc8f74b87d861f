"""How a model can be quantized, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make a variant.

    Attributes:
        name: The variant's name.
        weights: What the weights are stored as.
        activations: What flows between the operators, and in and out of the model.
        says: In a few words, for tables and help.
    """

    name: str
    weights: Literal["float32", "int8"]
    activations: Literal["float32", "int8"]
    says: str

    @property
    def needs_calibration(self) -> bool:
        """Whether the ranges of activations must be found by running samples."""
        return self.activations == "int8"


RECIPES = (
    Recipe(name="float32", weights="float32", activations="float32", says="as trained"),
    Recipe(name="dynamic", weights="int8", activations="float32", says="int8 weights, float32 in and out"),
    Recipe(name="int8", weights="int8", activations="int8", says="int8 throughout, int8 in and out"),
)
"""In the order in which they are made and shown."""
