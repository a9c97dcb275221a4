"""A small language of texts of several lengths, noised in every way, and the network that knows all of it.

States are written as tuples of tokens that begin with BOS; the mask among them.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from llada.noise import LinearSchedule
from llada.process import InsertionProcess, Thinned
from llada.process.insertion import gaps_of

BOS, MASK, SIZE = 3, 4, 5
PROCESS = InsertionProcess(MASK, LinearSchedule(1e-6), time_conditioned=True)
Text = tuple[int, ...]
Language = tuple[tuple[Text, float], ...]

MIXED: Language = (((), 0.1), ((0,), 0.2), ((1,), 0.15), ((0, 1), 0.3), ((1, 0), 0.25))
REPEATS: Language = (((), 0.1), ((0,), 0.2), ((0, 0), 0.3), ((0, 1), 0.15), ((0, 1, 0), 0.25))
LENGTHS: Language = (((), 0.25), ((0,), 0.25), ((0, 0), 0.5))
SHORT: Language = (((), 0.25), ((0,), 0.25), ((1,), 0.5))


def entropy(language: Language) -> float:
    return -sum(p * math.log(p) for _, p in language)


def shares(t: float) -> dict[str, float]:
    """What has become of a token: absent, masked or clean."""
    masked = -t * math.log(t)
    return {"absent": t, "masked": masked, "clean": max(0.0, 1.0 - t - masked)}


def noised(language: Language, t: float) -> Iterator[tuple[Text, tuple[str, ...], float]]:
    """All texts with all that can become of their tokens, and how likely that is."""
    share = shares(t)
    for text, p in language:
        for fate in itertools.product(share, repeat=len(text)):
            q = p * math.prod(share[name] for name in fate)
            if q > 0.0:
                yield text, fate, q


class Batch(NamedTuple):
    """All noised texts of a language as one batch."""

    thinned: Thinned
    probability: Tensor
    num_tokens: Tensor


def batch_of(language: Language, t: float) -> Batch:
    found = list(noised(language, t))
    width = 1 + max(len(text) for text, _ in language)
    tokens = torch.zeros(len(found), width, dtype=torch.int64)
    real, absent, masked = (torch.zeros(len(found), width, dtype=torch.bool) for _ in range(3))
    for row, (text, fate, _) in enumerate(found):
        tokens[row, : len(text) + 1] = torch.tensor([BOS, *text])
        real[row, : len(text) + 1] = True
        absent[row, 1 : len(text) + 1] = torch.tensor([name == "absent" for name in fate], dtype=torch.bool)
        masked[row, 1 : len(text) + 1] = torch.tensor([name == "masked" for name in fate], dtype=torch.bool)
    thinned = PROCESS.without(tokens, gaps_of(real, real), real, absent, masked)
    return Batch(thinned, torch.tensor([q for _, _, q in found]).double(), real.sum(1) - 1)


@cache
def answers(language: Language, t: float) -> dict[Text, Tensor]:
    """What the network that knows the language says of each state at a time, (length, SIZE) logits each."""
    total: dict[Text, float] = defaultdict(float)
    missing: dict[Text, list[float]] = {}
    tokens: dict[Text, Tensor] = {}
    for text, fate, q in noised(language, t):
        state, gone, labels = [BOS], [0], [-1]
        for token, name in zip(text, fate, strict=True):
            if name == "absent":
                gone[-1] += 1
                continue
            state.append(MASK if name == "masked" else token)
            gone.append(0)
            labels.append(token)
        key = tuple(state)
        total[key] += q
        known = missing.setdefault(key, [0.0] * len(key))
        counts = tokens.setdefault(key, torch.zeros(len(key), SIZE, dtype=torch.float64))
        for place, (number, label) in enumerate(zip(gone, labels, strict=True)):
            known[place] += q * number
            if label >= 0:
                counts[place, label] += q
    found = {}
    for key, mass in total.items():
        logits = (tokens[key] / mass).clamp(min=1e-300).log()
        logits[:, MASK] = (torch.tensor(missing[key]).double() / mass / t).clamp(min=1e-300).log()
        found[key] = logits
    return found


def oracle(language: Language, t: float, tokens: Tensor, real: Tensor) -> Tensor:
    """The network's answer to a batch at a time, (B, N, SIZE) float64; to states that no text has, that nothing is
    missing, and tokens of equal chance."""
    known = answers(language, min(max(t, 1e-6), 1.0 - 1e-6))
    states, back = torch.unique(torch.where(real, tokens, -1), dim=0, return_inverse=True)
    rows = torch.zeros(len(states), tokens.shape[1], SIZE, dtype=torch.float64)
    rows[..., MASK] = -700.0
    for row, state in enumerate(states.tolist()):
        key = tuple(token for token in state if token >= 0)
        if key in known:
            rows[row, : len(key)] = known[key]
    return rows[back]


class Oracle(torch.nn.Module):
    """The network that knows the language and is told the time."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def forward(self, tokens: Tensor, sigma: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask
        times = -torch.expm1(-sigma.double()) / (1.0 - 1e-6)
        return oracle(self.language, round(float(times[0]), 6), tokens, real)
