"""Evaluation like everybody's: the Language Model Evaluation Harness's tasks, and LLaDA's published protocols."""

from llada.evaluation.harness import evaluate, harness_model, register
from llada.evaluation.presets import PRESETS, EndRule, Protocol
from llada.evaluation.scoring import DiffusionScoring, NextTokenScoring, Scoring, next_token_greedy_match, scoring_of
from llada.evaluation.text_model import Pair, Question, TextModel

__all__ = [
    "PRESETS",
    "DiffusionScoring",
    "EndRule",
    "NextTokenScoring",
    "Pair",
    "Protocol",
    "Question",
    "Scoring",
    "TextModel",
    "evaluate",
    "harness_model",
    "next_token_greedy_match",
    "register",
    "scoring_of",
]
