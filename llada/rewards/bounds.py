"""Proxies that are bounds of log p(answer), estimated on masks that are drawn at random."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.rewards.episodes import Episodes, Noise
from llada.rewards.proxy import LikelihoodProxy, Terms, check_share, read
from llada.rows import block_of
from llada.samplers import Sampler

_MASKS, _BLOCKS = 11, 12  # what random numbers are for


@dataclass(frozen=True)
class Sandwich(LikelihoodProxy):
    """What is good is pushed up by a bound from below, what is bad is pushed down by one from above.

    With n draws of masks m, of which each hides a share tau of the answer's tokens, and p_i the probability of token i
    where it is masked,

        below:  mean over draws of the mean over masked tokens of log p_i
        above:  mean over tokens of (1 / beta) log [ mean over draws of m_i p_i^beta / tau ]

    Rows with a positive advantage get the first, the others ``mix`` of the second and 1 - ``mix`` of the first. The
    row's number of nats is that mean times the number of its tokens.

    Args:
        draws: n.
        beta: of the bound from above, 1 or more.
        mix: share of the bound from above, in [0, 1].
        prompt_masking: probability that what comes before the masked part is masked too.
        block_length: masks fall into one block of this length, behind which everything is masked, another one in each
            draw. None: anywhere in the answer.
        least: each draw masks at least this share of the tokens (and one at least).
        most: and at most this one.

    Raises:
        ValueError: if a number is out of its range.

    Reference:
        Wang et al., "SPG: Sandwiched Policy Gradient", arXiv 2510.09541, and its code, whose defaults these are.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import Episodes, PolicyObjective, Rollout, Sandwich
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = Sandwich(draws=4)(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # the mean over masks of one token and of both
        (tensor([[0, 0]]), tensor([[0.8660, 0.8660]], dtype=torch.float64))
    """

    draws: int = 2
    beta: float = 1.5
    mix: float = 0.5
    prompt_masking: float = 0.15
    block_length: int | None = 32
    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        check_share(prompt_masking=self.prompt_masking)
        if self.draws < 1 or not self.beta >= 1.0 or not 0.0 <= self.mix <= 1.0:
            raise ValueError(f"draws and beta must be 1 or more, and mix in [0, 1]; got {self}")
        if not 0.0 <= self.least <= self.most <= 1.0 or (self.block_length is not None and self.block_length < 1):
            raise ValueError(f"least and most must be in [0, 1], in this order, and block_length 1 or more; got {self}")

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        scored = episodes.scored
        tokens = scored.sum(1, keepdim=True).double().clamp(min=1.0)
        below, above = torch.zeros_like(scored, dtype=torch.float64), torch.zeros_like(scored, dtype=torch.float64)
        seen = torch.zeros_like(scored)
        for draw in range(self.draws):
            hidden, masked = self.masks(episodes, draw)
            log_prob, count = read(model, process, episodes, hidden, masked), masked.sum(1, keepdim=True)
            below = below + log_prob * tokens / count.clamp(min=1) / self.draws
            share = (count / tokens).clamp(min=1e-8)
            above = above + torch.where(masked, (self.beta * log_prob).exp() / share, 0.0) / self.draws
            seen = seen | masked
        # Where nothing was seen the logarithm has no gradient that would be a number.
        upper = torch.where(seen, torch.where(seen, above, 1.0).log() / self.beta, 0.0)
        upper = upper * tokens / seen.sum(1, keepdim=True).clamp(min=1)
        mix = torch.where(episodes.advantage > 0.0, 0.0, self.mix)[:, None]
        return Terms(mix * upper + (1.0 - mix) * below, scored.double())

    def masks(self, episodes: Episodes, draw: int) -> tuple[Tensor, Tensor]:
        """What is masked in a draw, and the tokens among it that are read; (B, L) bool."""
        noise, scored = episodes.noise(_MASKS), episodes.scored
        within, behind = self._block(episodes, draw)
        eligible = scored & within
        number = eligible.sum(1, keepdim=True)
        least = (number * self.least).long().clamp(min=1)
        most = torch.minimum((number * self.most).long(), number).clamp(min=1)
        count = least + (noise.of_rows(draw) * (most - least + 1)).long()
        masked = _subset(eligible, count, noise, draw)
        before = (episodes.prompt | scored) & ~within & ~behind
        prompt = before & (episodes.noise(_BLOCKS).at_positions(draw) < self.prompt_masking)
        return masked | prompt | behind | (episodes.open & ~scored), masked

    def _block(self, episodes: Episodes, draw: int) -> tuple[Tensor, Tensor]:
        """The tokens of the block that is masked, and those behind it, (B, L) bool."""
        if self.block_length is None:
            return episodes.open, torch.zeros_like(episodes.open)
        block = block_of(episodes.place, self.block_length)
        last = torch.where(episodes.scored, block, 0).amax(1, keepdim=True) + 1
        number = int(torch.where(episodes.open, block, 0).max()) + 1
        order = episodes.noise(_BLOCKS).of_rows(-1, number).argsort(1)
        chosen = order[:, draw % number][:, None] % last
        return episodes.open & (block == chosen), episodes.open & (block > chosen)


@dataclass(frozen=True)
class BlockBound(LikelihoodProxy):
    """The bound on log p(answer) block by block, at some noise levels, for ratios of whole rows.

        l_i = sum_k w_k [i masked at t_k] log p_i(own block masked at t_k, blocks before it clean),   w_k = 1 / (n t_k)

    A block-causal model reads all blocks of a level in one pass, beside a clean copy of the row; another one reads
    block by block, with everything behind masked.

    Args:
        levels: the shares t_1 ... t_n of masked tokens, in (0, 1].
        block_length: tokens per block of a model that has none of its own; None: the answer is one block.

    Raises:
        ValueError: if a level is out of its range, or there are none.

    Reference:
        "LLaDA2.1", arXiv 2602.08676, equations 4 and 5 (EBPO). The report says neither how many levels there are nor
        what they weigh; these weights make the sum the bound's, were the levels dense.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import BlockBound, Episodes, PolicyObjective, Rollout
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = BlockBound(levels=(0.5, 1.0))(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # the text has the probability 0.75: so much by both levels together
        (tensor([[0, 0]]), tensor([[0.8660, 0.8660]], dtype=torch.float64))
    """

    levels: tuple[float, ...] = (0.125, 0.375, 0.625, 0.875)
    block_length: int | None = None

    def __post_init__(self) -> None:
        if not self.levels or not all(0.0 < level <= 1.0 for level in self.levels):
            raise ValueError(f"levels must be one or more, in (0, 1]; got {self.levels}")
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"block_length must be 1 or more; got {self.block_length}")

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        noise, scored = episodes.noise(_MASKS), episodes.scored
        log_prob = torch.zeros_like(scored, dtype=torch.float64)
        two_copies = model.block_length is not None and model.block_length < scored.shape[1]
        length = scored.shape[1] if two_copies or self.block_length is None else self.block_length
        block = block_of(episodes.place, length)
        for number, level in enumerate(self.levels):
            masked = (noise.at_positions(number) < level) & episodes.open
            for index in range(int(torch.where(scored, block, 0).max()) + 1):
                hidden = episodes.open & ((block > index) | (masked & (block == index)))
                found = read(model, process, episodes, hidden, scored & masked & (block == index), two_copies)
                log_prob = log_prob + found / (len(self.levels) * level)
        return Terms(log_prob, scored.double())


def _subset(eligible: Tensor, count: Tensor, noise: Noise, draw: int) -> Tensor:
    """Of the eligible positions of each row ``count`` (B, 1) by chance, (B, L) bool."""
    keys = noise.at_positions(draw).masked_fill(~eligible, 2.0)
    return eligible & (keys.argsort(1).argsort(1) < count)
