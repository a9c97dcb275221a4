"""The default proxy: the likelihood itself, of an answer under the sampler that wrote it.

    log p(y) = sum_k sum_{i in P_k} log q(y_i | z_{k-1})

(`llada.samplers.likelihood`), with q after temperature, truncation, guidance and caches. The gradient of this sum times
the reward is the policy gradient: positions P_k follow from canvases by comparisons, whose derivative is zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from llada.denoiser import Denoiser
from llada.process import Process
from llada.random import RowRandom
from llada.rewards.episodes import Episodes
from llada.rewards.proxy import LikelihoodProxy, Terms
from llada.samplers import Sampler
from llada.samplers.likelihood import ScoringSampler


@dataclass(frozen=True)
class Trajectory(LikelihoodProxy):
    """The sampler's own log-probability of each token, by running its loop again along the text.

    Args:
        num_steps: how many steps of a batch, chosen by chance, have a gradient; it needs the memory of these alone, and
            their weight makes up for the others, so the expectation is that of all. None: all.

    Raises:
        ValueError: if it is less than 1.

    Reference:
        The subset of steps: Zhan, "AGRPO", arXiv 2510.04019.

    Examples:
        >>> import torch
        >>> from llada.data import ToyLanguage
        >>> from llada.denoiser import as_denoiser
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import Episodes, PolicyObjective, Rollout, Trajectory
        >>> language = ToyLanguage(torch.tensor([[0.75, 0.0], [0.0, 0.25]]))  # two tokens that are always equal
        >>> model, process, sampler = as_denoiser(language.oracle), MaskingProcess(2), PolicyObjective().sampler
        >>> batch = Rollout(1, answer_length=2)(sampler, model, process, [[]], seeds=torch.arange(1))
        >>> answers = Episodes.of({**batch, "advantage": torch.ones(1)})
        >>> terms = Trajectory()(sampler, model, process, answers, random=RowRandom.from_seed(0, 1))
        >>> batch["tokens"], terms.log_prob.exp()  # the sampler's own law: the text has the probability 0.75
        (tensor([[0, 0]]), tensor([[0.7500, 1.0000]], dtype=torch.float64))
    """

    num_steps: int | None = None
    recorded = True

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps must be 1 or more, or None for all; got {self.num_steps}")

    @override
    def check(self, sampler: Sampler) -> None:
        if sampler.likelihood_gap is not None or not isinstance(sampler, ScoringSampler):
            raise ValueError(
                f"a text that this sampler writes has no likelihood: {sampler.likelihood_gap}. Or take a proxy that "
                "doesn't need it, such as llada.rewards.FullMask"
            )

    @override
    def __call__(
        self, sampler: Sampler, model: Denoiser, process: Process, episodes: Episodes, *, random: RowRandom
    ) -> Terms:
        self.check(sampler)
        assert isinstance(sampler, ScoringSampler)
        number, gradients = int(episodes.steps.max()) + 1, torch.is_grad_enabled()
        chosen = self._chosen(number, random)
        log_prob = torch.zeros_like(episodes.scored, dtype=torch.float64)
        weight = torch.zeros_like(log_prob)
        steps = sampler.trace(
            model,
            episodes.canvas(process),
            process,
            text=episodes.tokens,
            given=~episodes.open,
            seed=episodes.seeds,
            **episodes.inputs,
        )
        for index in range(number):
            counts = bool(chosen[index])
            with torch.set_grad_enabled(gradients and counts):
                step = next(steps, None)
            if step is None:
                break
            if step.log_prob is not None:
                log_prob = log_prob + step.log_prob
                weight = torch.where(step.changed & counts, number / max(int(chosen.sum()), 1), weight)
        scored = episodes.scored
        return Terms(torch.where(scored, log_prob, 0.0), torch.where(scored, weight, 0.0))

    def _chosen(self, number: int, random: RowRandom) -> Tensor:
        """Which steps have a gradient, (number,) bool."""
        if self.num_steps is None or self.num_steps >= number:
            return torch.ones(number, dtype=torch.bool)
        order = random.fold_in(_STEPS).shared_uniform(number).argsort().cpu()
        return torch.zeros(number, dtype=torch.bool).index_fill(0, order[: self.num_steps], True)


_STEPS = 21
"""Tag of the random numbers that choose steps."""
