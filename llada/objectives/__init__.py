"""Losses: what to minimise, and the bound to report."""

from llada.objectives.block import BlockNELBO, block_index
from llada.objectives.complementary import ComplementaryNELBO
from llada.objectives.discrete import DiscreteWeight, GridTimes, discrete_time
from llada.objectives.exact_count import ExactCountNELBO
from llada.objectives.nelbo import MaskedNELBO, llada_finetuning, llada_pretraining, masked_mean
from llada.objectives.next_token import NextTokenNLL, has_context
from llada.objectives.normaliser import Normaliser, PerMasked, PerPosition, PerRow, PerToken
from llada.objectives.objective import Objective, ObjectiveOutput
from llada.objectives.random_length import RandomLength
from llada.objectives.weight import BoundWeight, ContextWeight, UnitWeight, Weight

__all__ = [
    "BlockNELBO",
    "BoundWeight",
    "ComplementaryNELBO",
    "ContextWeight",
    "DiscreteWeight",
    "ExactCountNELBO",
    "GridTimes",
    "MaskedNELBO",
    "NextTokenNLL",
    "Normaliser",
    "Objective",
    "ObjectiveOutput",
    "PerMasked",
    "PerPosition",
    "PerRow",
    "PerToken",
    "RandomLength",
    "UnitWeight",
    "Weight",
    "block_index",
    "discrete_time",
    "has_context",
    "llada_finetuning",
    "llada_pretraining",
    "masked_mean",
]
