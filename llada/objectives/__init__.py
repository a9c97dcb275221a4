"""Objectives: what training minimises, and the bound that is reported beside it."""

from llada.objectives.design import Design, Draw
from llada.objectives.exact_counts import Blockwise, ComplementaryPairs, ExactCounts
from llada.objectives.gaussian import TemperedTokens
from llada.objectives.independent import IndependentMasks, TimeGrid
from llada.objectives.nelbo import (
    NELBO,
    default_bound,
    discrete_time,
    llada_finetuning,
    llada_pretraining,
    masked_mean,
)
from llada.objectives.next_token import NextTokens
from llada.objectives.normaliser import Normaliser, PerPosition, PerRow, PerScored, PerToken
from llada.objectives.objective import Batch, Objective, ObjectiveOutput
from llada.objectives.plain import PlainCrossEntropy
from llada.objectives.random_length import RandomLength
from llada.objectives.weight import BoundWeight, ClippedWeight, ContextWeight, DynamicWeight, UnitWeight, Weight

__all__ = [
    "NELBO",
    "Batch",
    "Blockwise",
    "BoundWeight",
    "ClippedWeight",
    "ComplementaryPairs",
    "ContextWeight",
    "Design",
    "Draw",
    "DynamicWeight",
    "ExactCounts",
    "IndependentMasks",
    "NextTokens",
    "Normaliser",
    "Objective",
    "ObjectiveOutput",
    "PerPosition",
    "PerRow",
    "PerScored",
    "PerToken",
    "PlainCrossEntropy",
    "RandomLength",
    "TemperedTokens",
    "TimeGrid",
    "UnitWeight",
    "Weight",
    "default_bound",
    "discrete_time",
    "llada_finetuning",
    "llada_pretraining",
    "masked_mean",
]
