"""Which token a position would get: temperature, nucleus and top-k filtering, and the draw.

A draw inverts the distribution function in float64: the first token v with p_1 + ... + p_v > u. It has the law of the
Gumbel-max trick, argmax_v (z_v / T - log(-log u_v)), and costs one random number instead of V. Either needs float64:
with the 24 bits of a float32 the largest Gumbel number is 16.6, which cuts the tail and so lowers the effective
temperature.

Reference: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
Categorical Sampling", arXiv 2409.02908.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada.random import RowRandom
from llada.samplers.part import Part
from llada.samplers.state import NOTHING, State


def gumbel_argmax(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample of softmax(logits) by the Gumbel-max trick in float64, as LLaDA's released code draws it.

    Args:
        logits: (..., V).
        uniform: (..., V) float64 in (0, 1).

    Returns:
        (...) int64.
    """
    return (logits.double() - (-uniform.log()).log()).argmax(-1)


def inverse_cdf(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample of softmax(logits) by inversion in float64.

    Args:
        logits: (..., V), not all minus infinity.
        uniform: (...) float64 in (0, 1).

    Returns:
        (...) int64; never a token at minus infinity. The last token where there is no law.
    """
    logits = logits.to(torch.float64, copy=True)
    mass = logits.sub_(logits.amax(-1, keepdim=True)).exp_().cumsum(-1)
    target = uniform[..., None] * mass[..., -1:]
    return torch.searchsorted(mass, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def keep_top_p(logits: Tensor, top_p: float, *, crossing: bool = True) -> Tensor:
    """Drop all but the most likely tokens, which together have the probability ``top_p``; the best one always stays.

    Of tokens that tie at the edge of the set the first are kept. All of them stay if ``top_p`` is 1, also those that
    are lost in the rounding of a sum.

    Args:
        logits: (..., V).
        top_p: in (0, 1].
        crossing: keep the token with which the sum crosses ``top_p``: the smallest set that has as much or more. False:
            the largest set that has no more.
    """
    if top_p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    p = ordered.softmax(-1)
    upto = p.cumsum(-1)
    enough = upto - p >= top_p if crossing else upto > top_p
    enough[..., 0] = False
    return torch.full_like(logits, -torch.inf).scatter(-1, index, ordered.masked_fill(enough, -torch.inf))


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Drop all but the ``top_k`` most likely tokens (and those that tie with the last of them)."""
    k = min(top_k, logits.shape[-1])
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], -torch.inf)


@dataclass(frozen=True)
class Proposal(Part):
    """How a token is drawn from the logits of a position.

    Args:
        temperature: T; 0 takes the most likely token.
        top_p: keep the smallest set of tokens with at least this much probability, in (0, 1]; None for all.
        top_k: keep this many tokens; None for all.
        suppress_tokens: ids that are never written. The mask token never is, in any case.
        crossing: whether the nucleus has the token with which it reaches ``top_p`` (Dream, transformers), or ends
            before it (ReMDM, BD3LM); see `keep_top_p`.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.samplers import Proposal, Quota, UnmaskingSampler
        >>> model = lambda tokens: torch.tensor([2.0, 1.0, 0.0, 0.0]).expand(*tokens.shape, 4)
        >>> proposal = Proposal(temperature=1.0, top_k=2, suppress_tokens=(0,))
        >>> sampler = UnmaskingSampler(Quota(steps=2), proposal=proposal)
        >>> sampler(model, torch.full((1, 8), 3), MaskingProcess(3)).tokens
        tensor([[1, 2, 1, 1, 2, 1, 1, 1]])
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    crossing: bool = True

    def __post_init__(self) -> None:
        if self.temperature != 0.0 and not 1e-6 <= self.temperature <= 1e6:
            raise ValueError(f"temperature must be 0 (greedy), or from 1e-6 to 1e6; got {self.temperature}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1]; got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more; got {self.top_k}")

    def __call__(self, logits: Tensor, state: State, *, random: RowRandom) -> State:
        """Propose a token for every candidate.

        Args:
            logits: (B, M, V).
            state: the step; its candidates are those of the logits.
            random: random streams of the rows; a number belongs to the position in the row, whatever the padding.

        Returns:
            The state with ``logits``, ``filtered`` and ``drawn``.
        """
        # float32 for models of float64 too: positions that are alike stay tied, and don't differ by rounding, which
        # depends on the batch.
        logits = self.suppress(logits.float(), state)
        filtered = self.filter(logits)
        best, law = filtered.max(-1), filtered.detach()
        drawn = best.indices if self.temperature == 0.0 else inverse_cdf(law, random.uniform_at(state.positions))
        lost = ~best.values.isfinite()
        drawn = drawn.masked_fill(lost, state.process.mask_token_id or 0)  # refused before the window is left
        broken = broken_rows(state, lost)
        top = best.values if filtered is logits else NOTHING
        return replace(state, logits=logits, filtered=filtered, drawn=drawn, broken=broken, top=top)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Proposal":
        """The same proposal on a canvas whose columns were moved; ``move`` is told values for each column."""
        return self

    def suppress(self, logits: Tensor, state: State) -> Tensor:
        """A copy of the (..., V) logits with minus infinity at the tokens that are never written."""
        mask = state.process.mask_token_id
        return suppress(logits, self.suppress_tokens if mask is None else (mask, *self.suppress_tokens))

    def filter(self, logits: Tensor) -> Tensor:
        """Logits after temperature, then top-p, then top-k; (..., V)."""
        filtered = logits if self.temperature in (0.0, 1.0) else logits / self.temperature
        if self.top_p is not None:
            filtered = keep_top_p(filtered, self.top_p, crossing=self.crossing)
        return filtered if self.top_k is None else keep_top_k(filtered, self.top_k)


def broken_rows(state: State, lost: Tensor) -> Tensor:
    """(B,) bool, the rows that have had a candidate without an answer; ``lost`` (B, M) bool are those of this step."""
    now = (lost & state.valid).any(1)
    return state.broken | now if state.broken.numel() else now


def check_answers(state: State) -> None:
    """Whether the model had an answer at every position that it was asked for; asks the device.

    Raises:
        ValueError: if it hadn't.
    """
    if bool(state.broken.any()):
        row = int(state.broken.int().argmax())
        raise ValueError(
            f"row {row} can't be decoded: at a position to be written the model's logits are NaN or infinite, or no "
            "token is left to be written; look at the model's weights and dtype (float16 overflows soon), "
            "suppress_tokens, constraints and the guidance scale"
        )


def suppress(logits: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """A copy of (..., V) logits in which some tokens have minus infinity.

    Raises:
        ValueError: if a token isn't in the vocabulary.
    """
    outside = [token for token in tokens if not 0 <= token < logits.shape[-1]]
    if outside:
        raise ValueError(f"token {outside[0]} is outside of the model's vocabulary of {logits.shape[-1]}")
    logits = logits.clone()
    for token in tokens:  # a tensor of them would be sent to the device, and waited for
        logits.select(-1, token).fill_(-torch.inf)
    return logits
