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
        activations: What flows between the operators.
        io: What goes into the model and comes out where the original has floats.
        mixed: Whether some layers, which a search finds, are left in float32.
        says: In a few words, for tables and help.
    """

    name: str
    weights: Literal["float32", "float16", "int8", "int4"]
    activations: Literal["float32", "int8", "int16"] = "float32"
    io: Literal["float32", "int8"] = "float32"
    mixed: bool = False
    says: str

    @property
    def needs_calibration(self) -> bool:
        """Whether the ranges of activations must be found by running samples."""
        return self.activations != "float32"

    @property
    def full_int8(self) -> bool:
        """Whether everything is int8, inputs and outputs too, as an Edge TPU demands."""
        return self.weights == self.activations == self.io == "int8" and not self.mixed


RECIPES = (
    Recipe(name="float32", weights="float32", says="as trained"),
    Recipe(name="float16", weights="float16", says="float16 weights, computed in float32"),
    Recipe(name="dynamic", weights="int8", says="int8 weights, float32 in and out"),
    Recipe(name="int8", weights="int8", activations="int8", io="int8", says="int8 throughout, int8 in and out"),
    Recipe(name="int8-float-io", weights="int8", activations="int8", says="int8 inside, float32 in and out"),
    Recipe(
        name="int16x8", weights="int8", activations="int16", says="int8 weights, int16 activations, float32 in and out"
    ),
    Recipe(name="int4", weights="int4", says="4-bit weights, float32 in and out"),
)
"""In the order in which they are made and shown."""

FLOAT32 = RECIPES[0]
"""What the others are compared with, and most of them made of."""

MIXED = Recipe(
    name="mixed",
    weights="int8",
    activations="int8",
    mixed=True,
    says="int8 but for the layers that lose most, float32 in and out",
)
"""Made by the search alone, where no plain variant is within the budget."""


def recipe(name: str) -> Recipe:
    """The recipe of that name, `mixed` too; KeyError if there is none."""
    for one in (*RECIPES, MIXED):
        if one.name == name:
            return one
    raise KeyError(name)
