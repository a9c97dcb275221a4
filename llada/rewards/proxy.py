"""Proxies of log p(answer): what a policy loss takes for the likelihood of a written text.

The methods of the literature differ in little else. A proxy gives every written token a number of nats, whose sum is
its estimate for the row. One of them is the likelihood itself: `llada.rewards.Trajectory`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.rewards.episodes import Episodes
from llada.rows import block_of, segment_numbers, segment_starts
from llada.samplers import Sampler

_PROMPT, _MASKS, _ROUND = range(3)  # what random numbers are for


class Terms(NamedTuple):
    """What a proxy says.

    Attributes:
        log_prob: (B, L) float64, nats, differentiable; 0 where nothing counts.
        weight: (B, L) float64, how much each token counts: 1, or 0, or what makes up for tokens left out by chance.
    """

    log_prob: Tensor
    weight: Tensor


class LikelihoodProxy(ABC):
    """Gives written tokens a log-probability, with a gradient."""

    recorded = False
    """Whether its numbers for the policy that wrote a text are those that the sampler wrote down on the way."""

    @abstractmethod
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        """Read the answers.

        Args:
            sampler: which wrote them.
            model: the policy now.
            process: owner of the mask token.
            episodes: the answers. Noise follows from their seeds, so that other models can be read on the same one.
            random: of the training step, for what concerns the gradient alone.
        """

    def check(self, sampler: Sampler) -> None:  # noqa: B027 - most can read all
        """Whether the answers of this sampler can be read.

        Raises:
            ValueError: if not.
        """


@dataclass(frozen=True)
class FullMask(LikelihoodProxy):
    """All tokens of the answer at once, from a canvas on which all are masked: one pass, no order.

    Args:
        prompt_masking: probability that a token of the prompt is masked too, in [0, 1).

    Raises:
        ValueError: if it isn't.

    Reference:
        Zhao et al., "d1", arXiv 2504.12216, section 3.2.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import Episodes, FullMask, PolicyObjective, Rollout
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = FullMask(prompt_masking=0.0)(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # both from a blank canvas, as if one said nothing of the other
        (tensor([[0, 0]]), tensor([[0.7500, 0.7500]], dtype=torch.float64))
    """

    prompt_masking: float = 0.15

    def __post_init__(self) -> None:
        check_share(prompt_masking=self.prompt_masking)

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        hidden = episodes.open | masked_prompt(episodes, self.prompt_masking)
        return Terms(read(model, process, episodes, hidden, episodes.scored), episodes.scored.double())


@dataclass(frozen=True)
class Coupled(LikelihoodProxy):
    """The mean of `FullMask` without its noise, and of a random mask or its complement: three passes.

        l_i = [ log p_i(all masked) + (1 / rho) log p_i(S masked) ] / 2             for i in S
        l_i = [ log p_i(all masked) + 1 / (1 - rho) log p_i(the rest masked) ] / 2  for the others

    Args:
        least: rho is at least this.
        most: and at most this.

    Raises:
        ValueError: if they aren't in (0, 1), in this order.

    Reference:
        Gong et al., "DiffuCoder", arXiv 2506.20639, section 4. Its code draws one rho for a batch; here every row has
        its own, so that a row doesn't depend on its neighbours.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import Coupled, Episodes, PolicyObjective, Rollout
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = Coupled()(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # a mask and its complement see what each token says of the other
        (tensor([[0, 0]]), tensor([[0.8660, 0.8660]], dtype=torch.float64))
    """

    least: float = 0.2
    most: float = 0.8

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= self.most < 1.0:
            raise ValueError(f"least and most must be in (0, 1), in this order; got {self.least} and {self.most}")

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        noise, scored = episodes.noise(_MASKS), episodes.scored
        share = self.least + (self.most - self.least) * noise.of_rows()
        chosen = noise.at_positions() < share
        whole = read(model, process, episodes, episodes.open, scored)
        first = read(model, process, episodes, episodes.open & chosen, scored & chosen)
        second = read(model, process, episodes, episodes.open & ~chosen, scored & ~chosen)
        return Terms((whole + first / share + second / (1.0 - share)) / 2.0, scored.double())


@dataclass(frozen=True)
class Replay(LikelihoodProxy):
    """Every token at the state in which the sampler wrote it, by the model's own law: temperature 1, no truncation.

    Block-causal models read the same round of all blocks in one pass, beside a clean copy of the row.

    Args:
        shrink: how many consecutive steps of a row are read together, as if they had been one.

    Raises:
        ValueError: if ``shrink`` is less than 1.

    Reference:
        Wang et al., "TraceRL", arXiv 2509.06949.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import Episodes, PolicyObjective, Replay, Rollout
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = Replay()(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # each read where it was written: the second follows from the first
        (tensor([[0, 0]]), tensor([[0.7500, 1.0000]], dtype=torch.float64))
    """

    shrink: int = 1

    def __post_init__(self) -> None:
        if self.shrink < 1:
            raise ValueError(f"shrink must be 1 or more; got {self.shrink}")

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        log_prob = torch.zeros_like(episodes.scored, dtype=torch.float64)
        for hidden, now, two_copies in self.rounds(episodes, model.block_length):
            log_prob = log_prob + read(model, process, episodes, hidden, now, two_copies)
        return Terms(log_prob, episodes.scored.double())

    def rounds(self, episodes: Episodes, block_length: int | None) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """What is masked and what is read in each round, (B, L) bool; and whether earlier blocks are clean anyway."""
        two_copies = block_length is not None and block_length < episodes.tokens.shape[1]
        blocks = torch.zeros_like(episodes.steps)
        if two_copies and block_length is not None:
            blocks = block_of(episodes.noise(_ROUND).position, block_length)
        turn = _ranks(episodes.steps, blocks, episodes.steps >= 0) // self.shrink
        waits = episodes.open & (episodes.steps < 0)  # filled without a draw, behind a stop token
        for number in range(int(turn.max()) + 1):
            now = episodes.scored & (turn == number)
            if bool(now.any()):
                yield waits | (turn >= number), now, two_copies


def read(
    model: Denoiser,
    process: Process,
    episodes: Episodes,
    hidden: Tensor,
    where: Tensor,
    two_copies: bool = False,
) -> Tensor:
    """Log-probabilities of written tokens under the model's own law, (B, L) float64, 0 elsewhere.

    Args:
        model: the policy.
        process: owner of the mask token.
        episodes: the answers.
        hidden: (B, L) bool, what is masked.
        where: (B, L) bool, what is read.
        two_copies: whether a block-causal model gets the clean row beside the masked one.
    """
    assert process.mask_token_id is not None
    inputs = {**episodes.inputs, "clean": episodes.tokens} if two_copies else episodes.inputs
    canvas = episodes.tokens.masked_fill(hidden, process.mask_token_id)
    found = -model.token_nll(canvas, episodes.tokens, where, suppressed=process.mask_token_id, **inputs).double()
    return torch.zeros_like(where, dtype=torch.float64).masked_scatter(where, found)


def masked_prompt(episodes: Episodes, share: float) -> Tensor:
    """Tokens of the prompts that are masked by chance, (B, L) bool."""
    return episodes.prompt & (episodes.noise(_PROMPT).at_positions() < share)


def check_share(**shares: float) -> None:
    """Refuse what is no share in [0, 1).

    Raises:
        ValueError: naming it.
    """
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise ValueError(f"{name} must be in [0, 1); got {share}")


def _ranks(steps: Tensor, blocks: Tensor, drawn: Tensor) -> Tensor:
    """The number of each token's step among the different steps of its row and block, (B, L); -1 where none was drawn.

    Args:
        steps: (B, L).
        blocks: (B, L).
        drawn: (B, L) bool.
    """
    block = blocks.masked_fill(~drawn, -1)
    order = (blocks * (int(steps.max()) + 1) + steps).masked_fill(~drawn, -1).argsort(dim=1, stable=True)
    key = (block * (int(steps.max()) + 1) + steps).gather(1, order)
    number = segment_numbers(key)  # of runs of equal keys, which are sorted
    first = torch.where(segment_starts(block.gather(1, order)), number, 0).cummax(1).values
    rank = torch.where(drawn.gather(1, order), number - first, -1)
    return torch.zeros_like(rank).scatter(1, order, rank)
