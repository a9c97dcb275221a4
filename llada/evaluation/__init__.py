"""Evaluation like everybody's: the Language Model Evaluation Harness's tasks, and LLaDA's published protocols."""

from llada.evaluation.evaluation_model import EvaluationModel, Pair, Question
from llada.evaluation.harness import harness_model, register, run_tasks
from llada.evaluation.protocols import PROTOCOLS, EndRule, Protocol

__all__ = [
    "PROTOCOLS",
    "EndRule",
    "EvaluationModel",
    "Pair",
    "Protocol",
    "Question",
    "harness_model",
    "register",
    "run_tasks",
]
