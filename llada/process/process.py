"""What noise does to a token, forward and back.

At time t a token is kept, masked, or replaced by a random one, independently of the others:

    q(x_t = y | x_0 = x) = kept [y = x] + masked [y = mask] + scattered / K [y is one of the K data tokens]

with kept + masked + scattered = 1. Masked diffusion has scattered = 0, uniform diffusion masked = 0. A `Process` is the
only owner of what training and sampling must agree on: these shares, the states, and whether the network is told the
noise level. From the shares follow the rate r(y) of jumps into y, which doesn't depend on the token that is left, and
the weight of the one bound that all of them have (`llada.heads.interpolated`):

    r_t(y) = b_t'(y) - (kept_t' / kept_t) b_t(y),      w_t(z) = r_t(z) / q(x_t = z | x_0).

Going back from t to an earlier s, with the network's probabilities xhat of the clean token and p_t = kept xhat + b_t,
with b_t(y) = masked [y = mask] + scattered / K [y is data],

    p(x_s = y | x_t = z) = ( r [y = z] + b_t(z) - r b_s(z) ) p_s(y) / p_t(z),      r = kept_t / kept_s.

Shapes: B rows, L columns, M positions per row, V states: the vocabulary of the network.

Reference: Sahoo et al., arXiv 2406.07524, equations 4 to 7 (masked); Schiff et al., "Simple Guidance Mechanisms for
Discrete Diffusion Models", arXiv 2412.10193 (uniform); von Rütte et al., "Generalized Interpolating Discrete
Diffusion", arXiv 2503.04482 (both at once).
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.heads.noise_law import NoiseLaw
from llada.noise import NoiseSchedule
from llada.process.noised import Noised, check_data, check_maskable
from llada.process.parameterisation import LeaveOneOut
from llada.process.shares import Rates, Shares, rates_of
from llada.random import RowRandom


class Process(ABC):
    """A noise process over token sequences.

    A subclass gives `shares`, and attributes of these names:

    Attributes:
        schedule: alpha(t), the share of kept tokens.
        time_conditioned: whether the backbone takes the total noise sigma(t) = -log alpha(t) as the keyword ``sigma``.
        mask_token_id: id of the mask token; None if there is none.
        num_tokens: random tokens are drawn from the ids 0 .. num_tokens - 1, which are the data tokens but for the mask
            if that is among them; None if the process draws none.
        posterior: whether the network gives the full posterior p(x_i | x_t), as plain cross-entropy teaches it, so that
            bound and reverse step take its leave-one-out posterior (`LeaveOneOut`).
        suppressed: a token that the softmax of the loss leaves out, or None.
        inserts: whether tokens can also be absent, so that a row's length is drawn with it.
        tells_time: whether a time-conditioned backbone gets the time t itself in the place of sigma(t).
    """

    schedule: NoiseSchedule
    time_conditioned: bool
    mask_token_id: int | None
    num_tokens: int | None
    posterior: bool = False
    inserts: ClassVar[bool] = False
    tells_time: bool = False

    @property
    def suppressed(self) -> int | None:
        """The token that the loss's softmax leaves out, if any."""
        return None

    @property
    def scatters(self) -> bool:
        """Whether it replaces tokens by random ones, so that every token may be wrong and is scored."""
        return self.num_tokens is not None

    @abstractmethod
    def shares(self, t: Tensor) -> Shares:
        """What has become of the tokens at times ``t`` in [0, 1], of any shape, float64."""

    def rate(self, t: Tensor) -> Rates:
        """How often a token that isn't masked jumps, at times in (0, 1) of any shape; from the slopes of `shares`.

        Raises:
            ValueError: if the shares lose their derivative, or aren't those of a process.
        """
        return rates_of(self.shares, t)

    def noise_law(self, t: Tensor) -> NoiseLaw | None:
        """The laws that the divergence compares at times of any shape; None where it is the cross-entropy of masks."""
        return None if self.num_tokens is None else self._noise_law(self.shares(t))

    def bound_weight(self, t: Tensor, tokens: Tensor, x_0: Tensor) -> Tensor:
        """Weight w of a scored token's divergence in the continuous-time bound E_t [ sum_i w_i divergence_i ].

        It is the rate of jumps into the token over its probability.

        Args:
            t: times in (0, 1), (B, 1) or (B, L) float64.
            tokens: x_t, (B, L) int64.
            x_0: clean tokens, (B, L) int64.

        Returns:
            (B, 1) or (B, L) float64, at least 0.
        """
        law, rate = self.noise_law(t), self.rate(t)
        assert law is not None, f"{type(self).__name__} draws no random tokens, so it must write bound_weight"
        written = rate.scattered / law.num_data / (law.scattered + law.kept * (tokens == x_0))
        if self.mask_token_id is None:
            return written
        share = self.shares(t)
        size = (share.kept + share.scattered) / law.size  # the laws may be those of tokens that aren't masked
        return torch.where(self.is_masked(tokens), rate.masked / share.masked * size, written)

    def network(self, model: Any) -> Denoiser:
        """A model as the bound and the reverse step of this process take it.

        Args:
            model: whatever `llada.denoiser.as_denoiser` takes.
        """
        denoiser = as_denoiser(model)
        return LeaveOneOut(denoiser) if self.posterior and not isinstance(denoiser, LeaveOneOut) else denoiser

    def corrupt(self, x_0: Tensor, t: Tensor, maskable: Tensor | None = None, *, random: RowRandom) -> Noised:
        """Noise every token independently: draw x_t from q(x_t | x_0).

        Args:
            x_0: clean tokens, (B, L) int64.
            t: times in [0, 1], (B,) or, for a noise level per position, (B, L).
            maskable: (B, L) bool, False for the prompt and for padding, which are never touched. None: all True.
            random: the rows' random streams.

        Raises:
            ValueError: if the shapes don't fit, or a token isn't one of the K data tokens.
        """
        maskable = check_maskable(x_0, maskable)
        if t.shape not in (x_0.shape[:1], x_0.shape):
            raise ValueError(f"t must be (B,) = ({x_0.shape[0]},) or (B, L) = {tuple(x_0.shape)}; got {tuple(t.shape)}")
        share = self.shares(t.to(torch.float64) if t.ndim == 2 else t.to(torch.float64)[:, None])
        u = random.uniform(x_0.shape[1])  # one number says what happens, and to which token
        masked = (u < share.masked) & maskable
        tokens = x_0 if self.mask_token_id is None else x_0.masked_fill(masked, self.mask_token_id)
        if self.num_tokens is None:
            return Noised(tokens, masked)
        check_data(x_0, maskable, self.num_tokens, self._hole)
        part = (u - share.masked) / share.scattered.clamp(min=torch.finfo(u.dtype).tiny)
        drawn = self._drawn(part)
        scattered = (u >= share.masked) & (u < share.masked + share.scattered) & maskable
        return Noised(torch.where(scattered, drawn, tokens), maskable)

    def prior(self, tokens: Tensor, unknown: Tensor, *, random: RowRandom) -> Tensor:
        """Where generation starts: the tokens, with pure noise at the unknown positions, (B, L) int64.

        Args:
            tokens: (B, L) int64.
            unknown: (B, L) bool, the positions to be generated.
            random: the rows' random streams.
        """
        if self.num_tokens is None:
            assert self.mask_token_id is not None
            return tokens.masked_fill(unknown, self.mask_token_id)
        end = self.shares(torch.ones(1, 1, dtype=torch.float64, device=tokens.device))
        part = random.uniform(tokens.shape[1]) * (end.masked + end.scattered)  # pure noise: what is kept is left out
        share = end.scattered.clamp(min=torch.finfo(part.dtype).tiny)  # 0 where all noise is masks
        noise = self._drawn((part - end.masked) / share)
        if self.mask_token_id is not None:
            noise = noise.masked_fill(part < end.masked, self.mask_token_id)
        return torch.where(unknown, noise, tokens)

    def is_masked(self, tokens: Tensor) -> Tensor:
        """Which tokens, of any shape, are the mask token; bool of the same shape, all false without a mask token."""
        if self.mask_token_id is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        return tokens == self.mask_token_id

    def reverse(self, tokens: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The reverse step: p(x_s | x_t), the equation at the head of this file.

        Args:
            tokens: x_t at M positions, (B, M) int64.
            clean: xhat, the network's probabilities of the clean token there, (B, M, V) float64.
            t: (B,) float64, the time of ``tokens``, above 0.
            s: (B,) float64, an earlier time; 0 means clean, whatever noise the schedule leaves there.

        Returns:
            (B, M, V) float64, probabilities of the token at ``s``.
        """
        return self._posterior(tokens, clean, self.shares(t[:, None]), self.before(s[:, None]))

    def marginal(self, clean: Tensor, s: Tensor) -> Tensor:
        """The law q(x_s | x_0) of tokens whose clean ones have these laws.

        Args:
            clean: (B, M, V) float64.
            s: (B,) float64; 0 means clean.

        Returns:
            (B, M, V) float64.
        """
        share = self.before(s[:, None])
        return share.kept[..., None] * clean + self._noise(share, clean.shape[-1])

    def before(self, s: Tensor) -> Shares:
        """The shares at the earlier end of a step, like `shares`; at time 0 every token is clean."""
        share, start = self.shares(s), s == 0.0
        return Shares(share.kept.masked_fill(start, 1.0), *(part.masked_fill(start, 0.0) for part in share[1:]))

    def conditioning(self, t: Tensor) -> dict[str, Tensor]:
        """Keywords by which the backbone learns the noise level.

        Args:
            t: (B,) times.

        Returns:
            ``{}``, or ``{"sigma": (B,) float32}`` if the process is time-conditioned.

        Raises:
            ValueError: if the process is time-conditioned and sigma(1) is infinite.
        """
        if not self.time_conditioned:
            return {}
        if self.tells_time:
            return {"sigma": t.float()}
        if float(self.schedule.alpha(torch.ones((), dtype=torch.float64))) <= 0.0:
            raise ValueError(
                f"a time-conditioned backbone needs a finite sigma(1) = -log alpha(1), but {self.schedule} has "
                "alpha(1) = 0; give the schedule some residual signal, such as LinearSchedule(eps=1e-3)"
            )
        return {"sigma": self.schedule.sigma(t.to(torch.float64)).float()}

    def _posterior(self, tokens: Tensor, clean: Tensor, now: Shares, then: Shares) -> Tensor:
        """Bayes' rule for a token between two times of these shares, (B, 1) each, where every jump forgets."""
        b_t, b_s = self._noise(now, clean.shape[-1]), self._noise(then, clean.shape[-1])
        z, ratio = tokens[..., None], (now.kept / then.kept)[..., None]
        p_t, p_s = now.kept[..., None] * clean + b_t, then.kept[..., None] * clean + b_s
        jump = b_t.expand_as(p_t).gather(-1, z) - ratio * b_s.expand_as(p_s).gather(-1, z)
        stay = torch.zeros_like(p_t).scatter(-1, z, ratio.expand_as(z).to(p_t))
        return (stay + jump) * p_s / p_t.gather(-1, z)

    @property
    def _hole(self) -> int | None:
        """The mask, if it is among the ids from which random tokens are drawn."""
        assert self.num_tokens is not None
        return None if self.mask_token_id is None or self.mask_token_id >= self.num_tokens else self.mask_token_id

    def _noise_law(self, share: Shares) -> NoiseLaw:
        """The laws of tokens with these shares."""
        assert self.num_tokens is not None
        law = NoiseLaw(share.kept, share.scattered, self.num_tokens, self._hole)
        return law._replace(scattered=share.scattered / law.num_data)

    def _drawn(self, part: Tensor) -> Tensor:
        """The random token that each number in [0, 1] stands for, int64 of the same shape."""
        assert self.num_tokens is not None
        count = self.num_tokens - (self._hole is not None)
        tokens = (part.clamp(0.0, 1.0) * count).long().clamp(max=count - 1)
        return tokens if self._hole is None else tokens + (tokens >= self._hole)

    def _noise(self, share: Shares, num_states: int) -> Tensor:
        """b(y) of every state y, (B, 1, V)."""
        states = torch.zeros(*share.kept.shape, num_states, dtype=share.kept.dtype, device=share.kept.device)
        if self.num_tokens is not None:
            states[..., : self.num_tokens] = self._noise_law(share).scattered[..., None]
        if self.mask_token_id is not None:
            states[..., self.mask_token_id] = share.masked
        return states
