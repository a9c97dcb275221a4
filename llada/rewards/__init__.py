"""Learning from rewards, in five parts that are swapped alone.

    Rollout            the policy answers prompts, and writes down how
    Reward             text in, numbers out
    Advantage          how much better an answer is than the others to its prompt
    LikelihoodProxy    what is taken for log p(answer); by default it is the likelihood itself
    PolicyLoss         what an answer costs

`PolicyObjective` puts the last two into the Trainer, `RewardDataModule` the first three.
"""

from llada.rewards.advantage import Advantage, GroupMean, LeaveOneOut, SoftmaxDifference, ZScore
from llada.rewards.answers import Between, ExactMatch, Expression, Extract, Length, Number, Whole
from llada.rewards.bounds import BlockBound, Sandwich
from llada.rewards.episodes import Episodes
from llada.rewards.loss import (
    ClippedRatio,
    ClippedRow,
    Divisor,
    OpenPositions,
    PolicyLoss,
    Reinforce,
    Rows,
    Tokens,
)
from llada.rewards.objective import OldPolicy, PolicyObjective
from llada.rewards.proxy import Coupled, FullMask, LikelihoodProxy, Replay, Terms
from llada.rewards.published import (
    ADVANTAGES,
    coupled_grpo,
    diffu_grpo,
    ebpo,
    spg,
    trace_rl,
    trajectory_grpo,
    wd1,
)
from llada.rewards.puzzles import Countdown, Sudoku, SudokuCells
from llada.rewards.reward import Reward, Row, Sum
from llada.rewards.rollout import Rollout
from llada.rewards.trajectory import Trajectory
from llada.rewards.workers import OnWorkers
