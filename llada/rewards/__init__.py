"""Learning from rewards, in five parts that are swapped alone.

    Rollout            the policy answers prompts, and writes down how
    Reward             text in, numbers out
    Advantage          how much better an answer is than the others to its prompt
    LikelihoodProxy    what is taken for log p(answer); by default it is the likelihood itself
    PolicyLoss         what an answer costs

`PolicyObjective` puts the last two into the Trainer, `RewardDataModule` the first three.

The names below are loaded when they are first used, so that a worker process that computes rewards loads little else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_EXPORTS` loads, spelt out for editors and type checkers
    from llada.rewards.advantage import Advantage, GroupMean, LeaveOneOut, SoftmaxDifference, ZScore
    from llada.rewards.answers import Between, ExactMatch, Expression, Extract, Length, Number, Whole
    from llada.rewards.bounds import BlockBound, Sandwich
    from llada.rewards.episodes import Episodes
    from llada.rewards.loader import RolloutLoader
    from llada.rewards.loss import ClippedRatio, ClippedRow, Divisor, OpenPositions, PolicyLoss, Reinforce, Rows, Tokens
    from llada.rewards.objective import OldPolicy, PolicyObjective
    from llada.rewards.prompts import RewardDataModule, Task, Tasks, TaskSource
    from llada.rewards.proxy import Coupled, FullMask, LikelihoodProxy, Replay, Terms
    from llada.rewards.published import ADVANTAGES, coupled_grpo, diffu_grpo, ebpo, spg, trace_rl, trajectory_grpo, wd1
    from llada.rewards.puzzles import Countdown, Sudoku, SudokuCells
    from llada.rewards.reward import Reward, Row, Sum
    from llada.rewards.rollout import Rollout
    from llada.rewards.trajectory import Trajectory
    from llada.rewards.workers import OnWorkers
    from llada.rewards.writer import Prompt, Writer

_MODULES = {
    "advantage": ["Advantage", "GroupMean", "LeaveOneOut", "SoftmaxDifference", "ZScore"],
    "answers": ["Between", "ExactMatch", "Expression", "Extract", "Length", "Number", "Whole"],
    "bounds": ["BlockBound", "Sandwich"],
    "episodes": ["Episodes"],
    "loader": ["RolloutLoader"],
    "loss": ["ClippedRatio", "ClippedRow", "Divisor", "OpenPositions", "PolicyLoss", "Reinforce", "Rows", "Tokens"],
    "objective": ["OldPolicy", "PolicyObjective"],
    "prompts": ["RewardDataModule", "Task", "Tasks", "TaskSource"],
    "proxy": ["Coupled", "FullMask", "LikelihoodProxy", "Replay", "Terms"],
    "published": ["ADVANTAGES", "coupled_grpo", "diffu_grpo", "ebpo", "spg", "trace_rl", "trajectory_grpo", "wd1"],
    "puzzles": ["Countdown", "Sudoku", "SudokuCells"],
    "reward": ["Reward", "Row", "Sum"],
    "rollout": ["Rollout"],
    "trajectory": ["Trajectory"],
    "workers": ["OnWorkers"],
    "writer": ["Prompt", "Writer"],
}
_EXPORTS = {name: f"llada.rewards.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [
    "ADVANTAGES",
    "Advantage",
    "Between",
    "BlockBound",
    "ClippedRatio",
    "ClippedRow",
    "Countdown",
    "Coupled",
    "Divisor",
    "Episodes",
    "ExactMatch",
    "Expression",
    "Extract",
    "FullMask",
    "GroupMean",
    "LeaveOneOut",
    "Length",
    "LikelihoodProxy",
    "Number",
    "OldPolicy",
    "OnWorkers",
    "OpenPositions",
    "PolicyLoss",
    "PolicyObjective",
    "Prompt",
    "Reinforce",
    "Replay",
    "Reward",
    "RewardDataModule",
    "Rollout",
    "RolloutLoader",
    "Row",
    "Rows",
    "Sandwich",
    "SoftmaxDifference",
    "Sudoku",
    "SudokuCells",
    "Sum",
    "Task",
    "TaskSource",
    "Tasks",
    "Terms",
    "Tokens",
    "Trajectory",
    "Whole",
    "Writer",
    "ZScore",
    "coupled_grpo",
    "diffu_grpo",
    "ebpo",
    "spg",
    "trace_rl",
    "trajectory_grpo",
    "wd1",
]


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The loaded names and those still to be loaded."""
    return sorted({*globals(), *__all__})
