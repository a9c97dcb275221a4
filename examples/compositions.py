"""Random compositions of samplers, and prompts for them: what a promise about all samplers is tried on.

A composition is drawn from a number alone: a network, a sampler put together of any parts that fit, or a preset, and
rows of any length with gaps at any place. Parts that don't fit together refuse one another, and the draw is repeated.
"""

import inspect
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import (
    PRESETS,
    AllowLists,
    Ancestral,
    AnnealedConfidence,
    BacktrackingSampler,
    Binomial,
    Blocks,
    CappedRemasking,
    Comb,
    Confidence,
    ConfidenceRemasking,
    CosineQuota,
    Credit,
    DelayedCache,
    Demote,
    DistinctRows,
    DreamFloor,
    DualCache,
    EditingSampler,
    EntropyBound,
    ExactCache,
    Factor,
    FirstHitting,
    ForwardBackwardRemasking,
    Guidance,
    Hierarchy,
    IntervalCache,
    LeftToRight,
    LocalLeap,
    LoopRemasking,
    Margin,
    NegativeEntropy,
    NextToken,
    NoCache,
    PerStep,
    PlanningSampler,
    PrefixCache,
    Proposal,
    Quota,
    RandomOrder,
    RegularExpression,
    RescaledRemasking,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Spread,
    Stability,
    Stochastic,
    TauLeaping,
    Threshold,
    ThresholdOrQuota,
    TopProb,
    UnmaskingSampler,
    VerifyingSampler,
    VicinityCache,
    WholeCanvas,
    canvas,
)

VOCABULARY, MASK, PAD = 24, 23, 0
PROCESS = MaskingProcess(MASK)
Dice = random.Random


class Letters:
    """A tokenizer whose token i is the i-th letter; padding and mask are no text."""

    vocab_size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [ord(letter) - ord("a") + 1 for letter in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids."""
        return "".join("" if int(i) in (PAD, MASK) else chr(ord("a") + int(i) - 1) for i in ids)


@dataclass(frozen=True)
class Composition:
    """A network, a sampler, and the rows that it is to fill.

    Args:
        number: from which it was drawn.
        network: options of `network`.
        sharpness: of the network: what its weights are multiplied by.
        seed: of its weights.
        sampler: how the rows are filled.
        rows: token ids of each row, masks at what is open.
    """

    number: int
    network: tuple[tuple[str, Any], ...]
    sharpness: float
    seed: int
    sampler: Sampler
    rows: list[list[int]]

    def batch(self) -> tuple[Tensor, Tensor]:
        """All rows, padded on the left: tokens (B, L) int64, and which are real, (B, L) bool."""
        return canvas(self.rows, 0, mask_token_id=MASK, pad_token_id=PAD)[:2]


@cache
def network(
    options: tuple[tuple[str, Any], ...], dtype: torch.dtype = torch.float64, sharpness: float = 2.5, seed: int = 3
) -> BidirectionalTransformer:
    """A network far from its initialisation, where it matters what is visible.

    Args:
        options: of `BidirectionalTransformer`, as pairs.
        dtype: of its weights.
        sharpness: what weights are multiplied by. At 1 all tokens are about as likely, and a rule that asks for a
            token that is sure or settled behaves otherwise than at 2.5.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    made = BidirectionalTransformer(VOCABULARY, width=32, num_layers=2, num_heads=2, **dict(options)).double().eval()
    for parameter in made.parameters():
        parameter.data.mul_(sharpness)
    return made.to(dtype)


def compose(number: int) -> Composition:
    """The composition that belongs to a number."""
    dice = Dice(number)
    while True:
        options: dict[str, Any] = {"shift": dice.random() < 0.3}
        options |= dice.choice([{}, {}, {}, {"convolution": 3}, {"block_length": 4}, {"num_kv_heads": 1}])
        kind = dice.choice(
            [_unmasking] * 8
            + [_preset] * 3
            + [_editing, _speculative, _next_token, _planning, _backtracking, _verifying]
        )
        if kind is _next_token:
            options = {"causal": True, "shift": True}
        try:
            sampler = kind(dice)
        except ValueError:
            continue
        sharpness = dice.choice([1.0, 1.6, 2.5])
        return Composition(number, tuple(sorted(options.items())), sharpness, dice.randint(0, 9), sampler, _rows(dice))


def _rows(dice: Dice) -> list[list[int]]:
    """2 to 4 rows: a prompt, in some of them with gaps, and masks behind it. Lengths sometimes agree modulo 4."""
    new, gaps, even = dice.randint(1, 14), dice.choice([0.0, 0.3, 0.3, 0.6]), dice.random() < 0.4
    rows = []
    for _ in range(dice.randint(2, 4)):
        prompt = [MASK if dice.random() < gaps else dice.randint(1, MASK - 1) for _ in range(dice.randint(0, 12))]
        length = len(prompt) + new
        rows.append([*prompt, *[MASK] * (new + (-length % 4 if even else 0))])
    return rows


def _window(dice: Dice) -> Any:
    size, stop = dice.randint(2, 7), dice.choice([None, None, 2, (2, 5)])
    return dice.choice(
        [
            WholeCanvas(),
            WholeCanvas(),
            Blocks(size, stop),
            Blocks(size, stop),
            Blocks(4, stop, from_start=True),
            Sliding(size, stop),
        ]
    )


def _cache(dice: Dice) -> Any:
    refresh, warm_up = dice.choice([None, None, 2, 3]), dice.choice([1, 1, 2])
    return dice.choice(
        [
            NoCache(),
            PrefixCache(refresh, warm_up),
            DualCache(refresh, warm_up),
            VicinityCache(refresh, warm_up, radius=dice.randint(0, 4)),
            DelayedCache(refresh),
            IntervalCache(dice.choice([4, 6]), dice.choice([2, 3]), dice.choice([0.25, 0.5])),
            ExactCache(),
            DistinctRows(),
        ]
    )


def _order(dice: Dice) -> Any:
    filtered = dice.random() < 0.3
    plain = [Confidence(filtered), Margin(filtered), NegativeEntropy(filtered), Confidence(without=(2,))]
    plain += [TopProb(filtered), AnnealedConfidence(2.0)]
    chosen = dice.choice([*plain, RandomOrder(), LeftToRight(), Spread(), Comb(Confidence(), dice.randint(2, 5))])
    turns: list[Callable[[Any], Any]] = [lambda order: Demote(order, (2, 3)), lambda order: Stochastic(order, 0.7)]
    return chosen if dice.random() < 0.7 else dice.choice(turns)(chosen)


def _amount(dice: Dice) -> Any:
    steps, sure = dice.choice([None, *[dice.randint(4, 20)] * 3]), dice.choice([0.08, 0.2, 0.4])
    return dice.choice(
        [
            Quota(steps),
            PerStep(dice.randint(1, 3)),
            DreamFloor(steps),
            CosineQuota(steps),
            Binomial(steps),
            Threshold(sure),
            Factor(dice.choice([1.0, 1.5])),
            EntropyBound(dice.choice([0.5, 2.0])),
            Stability(sure, dice.choice([0.001, 0.1, 0.5]), dice.randint(1, 3), ahead=dice.random() < 0.6),
            ThresholdOrQuota(dice.randint(1, 4), sure, 4),
            Hierarchy(1.5 * sure, 0.5 * sure),
            LocalLeap(1.5 * sure, sure, dice.randint(1, 4)),
        ]
    )


def _common(dice: Dice) -> dict[str, Any]:
    """Parts of every composed sampler."""
    drawn = Proposal(1.0, top_p=dice.choice([None, 0.9]), top_k=dice.choice([None, 8]))
    words = AllowLists({3: (4, 5), 5: (6,), 9: (1, 2, 3)})
    letters = RegularExpression("[a-v]*", Letters(), end=(2,))
    return {
        "proposal": dice.choice([Proposal(), Proposal(suppress_tokens=(4,)), drawn, drawn]),
        "window": _window(dice),
        "guidance": Guidance(dice.choice([0.0, 0.0, 1.0])),
        "cache": _cache(dice),
        "adjustments": dice.choice([(), (), (), (words,), (Credit(),), (letters,)]),
    }


def _unmasking(dice: Dice) -> Sampler:
    plain = [Ancestral(), Ancestral(), Ancestral(1e-3)]
    taking_back = [CappedRemasking(0.2), RescaledRemasking(0.2), LoopRemasking(0.2), ForwardBackwardRemasking()]
    rates = dice.choice([*plain, TauLeaping(), FirstHitting(), ConfidenceRemasking(), dice.choice(taking_back)])
    return UnmaskingSampler(_amount(dice), _order(dice), rates=rates, **_common(dice))


def _editing(dice: Dice) -> Sampler:
    return EditingSampler(0.6, 0.4, max_edits=dice.randint(0, 4), **_common(dice))


def _planning(dice: Dice) -> Sampler:
    return PlanningSampler(dice.choice([None, dice.randint(3, 12)]), dice.choice([0.5, 1.0]), **_common(dice))


def _backtracking(dice: Dice) -> Sampler:
    return BacktrackingSampler(dice.randint(1, 3), dice.randint(2, 8), **_common(dice))


def _verifying(dice: Dice) -> Sampler:
    sure = dice.choice([0.1, 0.3, 0.6])
    return VerifyingSampler(sure, 1.5 * sure, 0.7, dice.randint(1, 3), dice.randint(3, 8), **_common(dice))


def _speculative(dice: Dice) -> Sampler:
    return SpeculativeSampler(dice.randint(1, 4), _order(dice), **_common(dice) | {"proposal": Proposal()})


def _next_token(dice: Dice) -> Sampler:
    return NextToken(dice.choice([0.0, 1.0]), stop_token_ids=dice.choice([None, 2]), cached=dice.random() < 0.5)


def _preset(dice: Dice) -> Sampler:
    build = PRESETS[dice.choice(sorted(PRESETS))]
    taken = inspect.signature(build).parameters
    chosen = {"steps": dice.randint(2, 20), "block_length": dice.choice([4, 5]), "temperature": dice.choice([0.0, 1.0])}
    return build(**{name: value for name, value in chosen.items() if name in taken and dice.random() < 0.8})
