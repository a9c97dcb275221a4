"""Objectives: what training minimises, and the bound that is reported beside it."""

from llada.objectives.blockwise import Blockwise, ComplementaryBlocks
from llada.objectives.certainty_forcing import CertaintyForcing, PartialBlock
from llada.objectives.clean_copy import CleanCopyLoss
from llada.objectives.condition import ConditionDropout
from llada.objectives.consistency_distillation import ConsistencyDistillation
from llada.objectives.design import Design, Draw
from llada.objectives.distillation import Distillation, Lesson
from llada.objectives.edits import EditRounds
from llada.objectives.exact_counts import ComplementaryPairs, ExactCounts
from llada.objectives.gaussian import TemperedTokens
from llada.objectives.independent import IndependentMasks, TimeGrid
from llada.objectives.insertion import InsertionNELBO
from llada.objectives.merged import CleanWeight, MergedMasks, dreamon
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
from llada.objectives.preference import PreferenceObjective
from llada.objectives.preference_links import IPO, KTO, Hinge, Link, PairBounds, Sigmoid, SimPO
from llada.objectives.preference_reference import AdapterOff, FrozenCopy, Reference, StoredBounds
from llada.objectives.random_length import RandomLength
from llada.objectives.self_distillation import SelfDistillation
from llada.objectives.trajectory_distillation import (
    RandomTrajectory,
    SpreadTrajectory,
    StoredTrajectory,
    Trajectory,
    TrajectoryDistillation,
)
from llada.objectives.weight import BoundWeight, ClippedWeight, ContextWeight, DynamicWeight, UnitWeight, Weight

__all__ = [
    "IPO",
    "KTO",
    "NELBO",
    "AdapterOff",
    "Batch",
    "Blockwise",
    "BoundWeight",
    "CertaintyForcing",
    "CleanCopyLoss",
    "CleanWeight",
    "ClippedWeight",
    "ComplementaryBlocks",
    "ComplementaryPairs",
    "ConditionDropout",
    "ConsistencyDistillation",
    "ContextWeight",
    "Design",
    "Distillation",
    "Draw",
    "DynamicWeight",
    "EditRounds",
    "ExactCounts",
    "FrozenCopy",
    "Hinge",
    "IndependentMasks",
    "InsertionNELBO",
    "Lesson",
    "Link",
    "MergedMasks",
    "NextTokens",
    "Normaliser",
    "Objective",
    "ObjectiveOutput",
    "PairBounds",
    "PartialBlock",
    "PerPosition",
    "PerRow",
    "PerScored",
    "PerToken",
    "PlainCrossEntropy",
    "PreferenceObjective",
    "RandomLength",
    "RandomTrajectory",
    "Reference",
    "SelfDistillation",
    "Sigmoid",
    "SimPO",
    "SpreadTrajectory",
    "StoredBounds",
    "StoredTrajectory",
    "TemperedTokens",
    "TimeGrid",
    "Trajectory",
    "TrajectoryDistillation",
    "UnitWeight",
    "Weight",
    "default_bound",
    "discrete_time",
    "dreamon",
    "llada_finetuning",
    "llada_pretraining",
    "masked_mean",
]
