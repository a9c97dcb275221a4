"""Learning from rewards: written answers become likelier by how much better they are than others to their prompt.

    loss = sum over rows of [ policy loss(A, log p, log p_old) + kl_weight KL(policy, reference) ] / divisor

The policy is a network with a sampler: what writes the answers. `llada.rewards.Rollout` lets it write them,
`llada.rewards.RewardDataModule` does so in a training, and this objective learns from what was written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from llada.built import check_fields
from llada.denoiser import Denoiser, as_denoiser
from llada.objectives import Objective, ObjectiveOutput, Reference
from llada.objectives.objective import Batch
from llada.objectives.preference_reference import CHOSEN, Reading
from llada.process import Process
from llada.random import RowRandom
from llada.rewards.episodes import Episodes
from llada.rewards.loss import ClippedRatio, Divisor, PolicyLoss, Tokens, k3, ratios
from llada.rewards.proxy import LikelihoodProxy, Terms
from llada.rewards.trajectory import Trajectory
from llada.samplers import PerStep, Proposal, Sampler, TopProb, UnmaskingSampler


@dataclass(frozen=True)
class OldPolicy(Reference):
    """The policy that wrote the answers, as a reference for the KL term.

    Examples:
        >>> from llada.rewards import OldPolicy, PolicyObjective
        >>> PolicyObjective(kl_weight=0.1, reference=OldPolicy()).reference
        OldPolicy()
    """

    @override
    def __call__(self, model: Denoiser, bound: Any, reading: Reading) -> Tensor:
        old = reading.batch.get("old_log_prob")
        if old is None:  # then it still is the policy that is trained
            with torch.no_grad():
                return bound(model)
        return old.double()


@dataclass(frozen=True)
class PolicyObjective(Objective):
    """Policy optimisation of a diffusion model, or of an autoregressive one with its `llada.samplers.NextToken`.

    Args:
        sampler: the policy's: what writes the answers, and by whose law `Trajectory` reads them. Its temperature must
            be above 0.
        proxy: what is taken for the likelihood of an answer.
        loss: what an answer costs.
        divisor: what the sum is divided by.
        kl_weight: of the divergence from the reference, per token.
        useful_only: whether rows whose advantage is 0 aren't read. Without a KL term they have no gradient, so it is
            that of all rows, and the ratio is 1, but for the rounding of a smaller batch. In what is logged they are
            as likely as when they were written.
        reference: where that is: `llada.objectives.FrozenCopy` (with the callback FrozenReference), `AdapterOff`, or
            `OldPolicy`. None where there is no such term.

    Raises:
        ValueError: if ``kl_weight`` is negative, or has no reference, or goes with ``useful_only``; or if the proxy
            can't read the sampler's answers.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> from llada.rewards import PolicyObjective, Rollout
        >>> logits, process, objective = torch.zeros(3, requires_grad=True), MaskingProcess(2), PolicyObjective()
        >>> model = lambda tokens: logits.expand(*tokens.shape, 3)
        >>> batch = Rollout(2, answer_length=1)(objective.sampler, model, process, [[1]], seeds=torch.arange(2))
        >>> batch["advantage"] = torch.where(batch["tokens"][:, 1] == 0, 1.0, -1.0)  # 0 is the right answer
        >>> objective(model, process, batch, random=RowRandom.from_seed(0, 2)).loss.backward()
        >>> logits.grad  # downhill, 0 becomes likelier
        tensor([-0.5000,  0.5000,  0.0000])
    """

    sampler: Sampler = field(
        default_factory=lambda: UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(temperature=1.0))
    )
    proxy: LikelihoodProxy = field(default_factory=Trajectory)
    loss: PolicyLoss = field(default_factory=ClippedRatio)
    divisor: Divisor = field(default_factory=Tokens)
    kl_weight: float = 0.0
    reference: Reference | None = None
    useful_only: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.kl_weight >= 0.0:
            raise ValueError(f"kl_weight must be 0 or more; got {self.kl_weight}")
        if self.kl_weight > 0.0 and self.reference is None:
            raise ValueError(
                f"kl_weight={self.kl_weight} needs a reference: FrozenCopy(), AdapterOff() or OldPolicy(); or set it "
                "to 0"
            )
        if self.kl_weight > 0.0 and self.useful_only:
            raise ValueError("a KL term is about all rows; set useful_only to False, or kl_weight to 0")
        self.proxy.check(self.sampler)

    @override
    def __call__(self, model: Any, process: Process, batch: Batch | Tensor, *, random: RowRandom) -> ObjectiveOutput:
        _check_process(process)
        denoiser, everything = as_denoiser(model), Episodes.of(batch)
        episodes = everything.only(_useful(everything)) if self.useful_only else everything
        with _evaluation(denoiser):
            terms = self.read(denoiser, process, episodes, random)
            old = terms.log_prob.detach() if episodes.old is None else episodes.old
            losses = self.loss(terms, old, episodes.advantage)
            if not bool(episodes.scored.any()):
                losses = losses + self._nothing(denoiser, process, episodes)
            divergence = torch.zeros_like(old)
            if self.reference is not None and self.kl_weight > 0.0:
                reading = Reading(batch if isinstance(batch, dict) else dict(batch), 0, CHOSEN)
                other = self.reference(denoiser, lambda d: self.read(d, process, episodes, random).log_prob, reading)
                divergence = k3(terms.log_prob, other) * terms.weight
        numerator = (losses + self.kl_weight * divergence.sum(1)).sum()
        if self.useful_only and everything.old is not None:
            terms, old, episodes = _with_others(terms, everything)
        return self._output(everything, episodes, terms, old, numerator, divergence)

    def read(self, model: Denoiser, process: Process, episodes: Episodes, random: RowRandom) -> Terms:
        """What the proxy says of the answers under a model."""
        return self.proxy(self.sampler, model, process, episodes, random=random)

    @torch.no_grad()
    def old_log_prob(self, model: Any, process: Process, batch: Batch) -> Tensor:
        """The proxy's numbers for a batch under the policy that has just written it, (B, L) float64."""
        denoiser, episodes = as_denoiser(model), Episodes.of(batch)
        with _evaluation(denoiser):
            random = RowRandom.from_seed(0, len(episodes.tokens), episodes.tokens.device)
            return self.read(denoiser, process, episodes, random).log_prob

    def _nothing(self, model: Denoiser, process: Process, episodes: Episodes) -> Tensor:
        """0 with a gradient, which is 0, too: for a batch in which nothing counts, while other ranks wait for it."""
        first = torch.zeros_like(episodes.open).index_fill(1, episodes.open.new_zeros(1, dtype=torch.int64), True)
        return model.logits(episodes.canvas(process), first, **episodes.inputs).sum() * 0.0

    @override
    def bound_gap(self, process: Process) -> str | None:
        return "it is about the texts that the model writes, not about data"

    def _output(
        self,
        everything: Episodes,
        episodes: Episodes,
        terms: Terms,
        old: Tensor,
        numerator: Tensor,
        divergence: Tensor,
    ) -> ObjectiveOutput:
        """What is reported, of the rows of ``episodes``; the divisor is that of everything."""
        denominator = self.divisor(everything)
        nats = -torch.where(terms.log_prob.isfinite(), terms.log_prob, 0.0).detach().sum(1)
        count = episodes.scored.sum(1)
        clipped = self.loss.clipped(terms, old, episodes.advantage)
        means = _report(episodes, terms, old, clipped, divergence.detach())
        return ObjectiveOutput(
            numerator=numerator,
            denominator=denominator,
            nelbo=nats,
            num_tokens=count,
            t=torch.ones_like(nats),
            scored_nll=nats,
            num_scored=count,
            sums={name: value * denominator for name, value in means.items()},
        )


def _useful(episodes: Episodes) -> Tensor:
    """Rows with an advantage, (R,) int64; the first one if there are none, so that there is a gradient."""
    rows = (episodes.advantage != 0.0).nonzero().flatten()
    return rows if len(rows) > 0 else torch.zeros(1, dtype=torch.int64, device=episodes.tokens.device)


def _with_others(terms: Terms, everything: Episodes) -> tuple[Terms, Tensor, Episodes]:
    """Terms of all rows, those that weren't read as they were written; with what belongs to them."""
    assert everything.old is not None
    rows = _useful(everything)
    old = torch.where(everything.scored, everything.old, 0.0)
    log_prob = old.index_copy(0, rows, terms.log_prob.detach())
    return Terms(log_prob, everything.scored.double().index_copy(0, rows, terms.weight)), old, everything


@torch.no_grad()
def _report(episodes: Episodes, terms: Terms, old: Tensor, clipped: Tensor, divergence: Tensor) -> dict[str, Tensor]:
    """Means over the tokens that count."""
    counts = terms.weight > 0.0
    number = counts.sum().double().clamp(min=1.0)
    change = (ratios(terms, old) - 1.0).abs()
    first = (episodes.inner == 0)[:, None]
    possible = terms.log_prob.isfinite()
    return {
        "policy_ratio_error": torch.where(counts & first, change, 0.0).sum() / number,
        "policy_ratio_change": torch.where(counts, change, 0.0).sum() / number,
        "policy_clipped": (clipped & counts).sum() / number,
        "policy_impossible": (counts & ~possible).sum() / number,
        "policy_nats": -torch.where(counts & possible, terms.log_prob, 0.0).sum() / number,
        "policy_kl": divergence.sum() / number,
    }


def _check_process(process: Process) -> None:
    if process.mask_token_id is None or process.scatters:
        raise ValueError(f"rewards are learnt from by masked diffusion and by autoregressive models; got {process}")


@contextmanager
def _evaluation(model: Denoiser) -> Iterator[None]:
    """No dropout: the policy is the network that wrote the texts."""
    network = getattr(model, "backbone", None) or getattr(model, "function", None)
    modes = {part: part.training for part in network.modules()} if isinstance(network, nn.Module) else {}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
