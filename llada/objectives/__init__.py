"""Objectives: what training minimises, and the bound that is reported beside it."""

from llada.objectives.design import Design, Draw
from llada.objectives.exact_counts import Blockwise, ComplementaryPairs, ExactCounts
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
from llada.objectives.preference import PreferenceObjective
from llada.objectives.preference_links import IPO, KTO, Hinge, Link, PairBounds, Sigmoid, SimPO
from llada.objectives.preference_reference import AdapterOff, FrozenCopy, Reference, StoredBounds
from llada.objectives.random_length import RandomLength
from llada.objectives.self_distillation import SelfDistillation
from llada.objectives.weight import BoundWeight, ContextWeight, UnitWeight, Weight

__all__ = [
    "IPO",
    "KTO",
    "NELBO",
    "AdapterOff",
    "Batch",
    "Blockwise",
    "BoundWeight",
    "ComplementaryPairs",
    "ContextWeight",
    "Design",
    "Draw",
    "ExactCounts",
    "FrozenCopy",
    "Hinge",
    "IndependentMasks",
    "Link",
    "NextTokens",
    "Normaliser",
    "Objective",
    "ObjectiveOutput",
    "PairBounds",
    "PerPosition",
    "PerRow",
    "PerScored",
    "PerToken",
    "PreferenceObjective",
    "RandomLength",
    "Reference",
    "SelfDistillation",
    "Sigmoid",
    "SimPO",
    "StoredBounds",
    "TimeGrid",
    "UnitWeight",
    "Weight",
    "default_bound",
    "discrete_time",
    "llada_finetuning",
    "llada_pretraining",
    "masked_mean",
]
