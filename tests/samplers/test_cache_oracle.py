"""Caches against a decoder written out by hand, token for token and confidence for confidence.

`ByHand` is a transformer of one row whose keys and values stay what they were until their column is computed again.
The rules beside each policy say, in the words of its documentation, which columns a call computes; everything else that
attention reads is then old in the way that the policy promises. Nothing here is shared with the library but the
weights: rows are decoded one by one and without padding, and the library gets them as a ragged batch.

Nothing is drawn, so there are no false alarms. Models are float64; the tolerance is that of the float32 in which a
sampler compares and reports probabilities. A wrong cache is off by a thousand times as much, as the last test shows.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.samplers import (
    Blocks,
    DelayedCache,
    DistinctRows,
    DualCache,
    ExactCache,
    IntervalCache,
    LeftToRight,
    NoCache,
    PerStep,
    PrefixCache,
    Sampler,
    Threshold,
    UnmaskingSampler,
    VicinityCache,
    WholeCanvas,
    canvas,
)

MASK, NEW, SIZE = 31, 12, 6
PROMPTS = [[3, 9, 4, 1, 22, 8], [5, 6, 7]]
TOLERANCE = 1e-6


def sampler(cache: Any, amount: "Amount", size: int | None, from_start: bool = False) -> Sampler:
    """The library's greedy sampler."""
    rule = PerStep(amount.count) if amount.threshold is None else Threshold(amount.threshold)
    window = WholeCanvas() if size is None else Blocks(size, from_start=from_start)
    order = {"order": LeftToRight()} if amount.blind else {}
    return UnmaskingSampler(rule, window=window, cache=cache, **order)


def build(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(3)
    model = BidirectionalTransformer(32, width=32, num_layers=2, num_heads=2, **options).double().eval()
    for parameter in model.parameters():  # far from the initialisation, where attention hardly matters
        parameter.data.mul_(1.2)
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Amount:
    """How many tokens a step writes: the best few, or all above a threshold and the best one; or the first few."""

    count: int = 1
    threshold: float | None = None
    blind: bool = False

    def __call__(self, confidence: Tensor) -> Tensor:
        rank = torch.arange(len(confidence))
        if not self.blind:
            rank = confidence.argsort(descending=True, stable=True).argsort()
        taken = rank < self.count
        return taken if self.threshold is None else taken | (confidence >= self.threshold)


class ByHand:
    """One row of a transformer, and what it computed last for each column."""

    def __init__(self, model: BidirectionalTransformer, length: int) -> None:
        self.model, self.length, self.lead = model, length, int(model.shift)
        layers, kept = range(model.num_layers), (length, model.num_kv_heads, model.head_dim)
        self.keys, self.values = ([torch.zeros(kept).double() for _ in layers] for _ in range(2))
        self.attended, self.fed = ([torch.zeros(length, model.width).double() for _ in layers] for _ in range(2))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.model.norm_eps).sqrt() * weight

    def turned(self, x: Tensor, columns: Tensor) -> Tensor:
        half = self.model.head_dim // 2
        angle = columns[:, None, None] * self.model.rope_theta ** (-torch.arange(half).double() / half)
        z = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((z.real, z.imag), -1)

    def attend(self, layer: int, x: Tensor, columns: Tensor) -> Tensor:
        """Renew keys and values of the columns, whose features are x (Q, D), and look at those of all."""
        block, d = self.model.blocks[layer], self.model.head_dim
        x = self.norm(x, block.attention_norm.weight)
        q, k, v = (getattr(block.attention, f"{name}_proj")(x).unflatten(-1, (-1, d)) for name in "qkv")
        self.keys[layer][columns], self.values[layer][columns] = self.turned(k, columns), v
        group = q.shape[1] // k.shape[1]
        keys, values = (kept[layer].repeat_interleave(group, 1) for kept in (self.keys, self.values))
        scores = torch.einsum("qhd,khd->hqk", self.turned(q, columns), keys) / math.sqrt(d)
        if self.model.block_length is not None:
            block_of = torch.arange(self.length) // self.model.block_length
            scores = scores.masked_fill(block_of[None] > block_of[columns, None], -torch.inf)
        return block.attention.o_proj(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).flatten(1))

    def feed(self, layer: int, x: Tensor) -> Tensor:
        block = self.model.blocks[layer]
        return block.feed_forward(self.norm(x, block.feed_forward_norm.weight))

    def predicted(self, x: Tensor, columns: Tensor) -> Tensor:
        """(L, V) log-probabilities at the places that they speak of; NaN where their column wasn't computed."""
        outputs = torch.full((self.length, self.model.vocab_size), torch.nan).double()
        outputs[columns] = self.model.head(self.norm(x, self.model.final_norm.weight))
        outputs = outputs[(torch.arange(self.length) - self.lead).clamp(min=0)]
        outputs[:, MASK] = -torch.inf
        return outputs.log_softmax(-1)

    def region(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Compute some columns in all layers."""
        x = self.model.embedding.weight[tokens[columns]]
        for layer in range(self.model.num_layers):
            x = x + self.attend(layer, x, columns)
            x = x + self.feed(layer, x)
        return self.predicted(x, columns)

    def partial(self, tokens: Tensor, start: int, share: float) -> Tensor:
        """dLLM-Cache: in each layer but the first a share of the columns from ``start`` on, whose values moved most."""
        x = self.model.embedding.weight[tokens]
        for layer, block in enumerate(self.model.blocks):
            columns = torch.arange(start, self.length)
            if layer > 0:
                fresh = block.attention.v_proj(self.norm(x[columns], block.attention_norm.weight))
                likeness = F.cosine_similarity(fresh, self.values[layer][columns].flatten(1), dim=-1)
                columns = columns[likeness.argsort(stable=True)[: math.ceil(share * len(columns))]]
            self.attended[layer][columns] = self.attend(layer, x[columns], columns)
            x = x + self.attended[layer]
            self.fed[layer][columns] = self.feed(layer, x[columns])
            x = x + self.fed[layer]
        return self.predicted(x, torch.arange(self.length))


@dataclass
class Call:
    """What a rule may look at: the network, the canvas, and where the call stands in its window."""

    network: ByHand
    tokens: Tensor
    before: Tensor  # the canvas at the previous call of the window
    index: int
    start: int
    stop: int
    first: int  # column of the row's first mask before decoding
    made: int  # calls of the row before this one

    def whole(self) -> Tensor:
        return self.network.region(self.tokens, torch.arange(self.network.length))

    def between(self, start: int, stop: int) -> Tensor:
        """Columns start to stop, and that at which the first of them is predicted."""
        low, high = max(0, start - self.network.lead), min(stop, self.network.length)
        return self.network.region(self.tokens, torch.arange(low, high))


Rule = Callable[[Call], Tensor]


def every(call: Call, refresh: int | None, warm_up: int = 1) -> bool:
    return call.index == 0 or call.made < warm_up or (refresh is not None and call.index % refresh == 0)


def prefix(refresh: int | None = None, warm_up: int = 1) -> Rule:
    """What is left of the window is kept."""
    return lambda c: c.whole() if every(c, refresh, warm_up) else c.between(c.start, c.network.length)


def dual(refresh: int | None = None, warm_up: int = 1, radius: int = 0) -> Rule:
    """What is around the window is kept, but for some neighbours."""
    return lambda c: c.whole() if every(c, refresh, warm_up) else c.between(c.start - radius, c.stop + radius)


def delayed(refresh: int | None) -> Rule:
    """Tokens are kept one step after they were written: until then and while masked they are computed."""

    def rule(call: Call) -> Tensor:
        if every(call, refresh):
            return call.whole()
        fresh = (call.tokens == MASK) | (call.tokens != call.before)
        where = fresh.nonzero()[:, 0]
        read = (where - call.network.lead).clamp(min=0)
        return call.network.region(call.tokens, torch.cat((where, read)).unique())

    return rule


def interval(prompt_interval: int, interval: int, share: float) -> Rule:
    def rule(call: Call) -> Tensor:
        if call.index % prompt_interval == 0:
            return call.network.partial(call.tokens, 0, 1.0)
        start = max(0, call.first - call.network.lead)
        return call.network.partial(call.tokens, start, 1.0 if call.index % interval == 0 else share)

    return rule


def decode(
    model: BidirectionalTransformer, row: Tensor, rule: Rule, amount: Amount, spans: list[tuple[int, int]]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For each window the canvas and the confidences after each of its steps."""
    network, first, made = ByHand(model, len(row)), int((row == MASK).nonzero()[0]), 0
    for start, stop in spans:
        steps: list[tuple[Tensor, Tensor]] = []
        before = row
        while (row[:stop] == MASK).any():
            log_p = rule(Call(network, row, before, len(steps), start, stop, first, made))
            made += 1
            places = (row[:stop] == MASK).nonzero()[:, 0]
            best = log_p[places].max(-1)
            taken = amount(best.values.exp())
            seen = taken if amount.blind else torch.ones_like(taken)
            confidence = torch.full(row.shape, torch.nan).double()
            confidence[places[seen]] = best.values.exp()[seen]
            before, row = row, row.clone()
            row[places[taken]] = best.indices[taken]
            steps.append((row, confidence))
        yield steps


def spans_of(row: Tensor, size: int | None, from_start: bool) -> list[tuple[int, int]]:
    """The windows of a row: the whole of its masks, or blocks counted from its end, or from its start."""
    length, first = len(row), int((row == MASK).nonzero()[0])
    if size is None:
        return [(first, length)]
    edges = list(range(0, length, size)) if from_start else list(range(length % size - size, length, size))
    return [(max(edge, 0), min(edge + size, length)) for edge in edges if edge + size > first]


def worst_difference(
    model: BidirectionalTransformer,
    cache: Any,
    rule: Rule,
    amount: Amount,
    size: int | None,
    from_start: bool = False,
    prompts: list[list[int]] = PROMPTS,
    new: int = NEW,
) -> float:
    """Largest difference of a confidence; infinite if a token, a step or a set of candidates differs."""
    tokens, mask, _ = canvas(prompts, new, mask_token_id=MASK, pad_token_id=0)
    rows = [tokens[i][mask[i]] for i in range(len(tokens))]
    expected = [list(decode(model, row, rule, amount, spans_of(row, size, from_start))) for row in rows]
    process = MaskingProcess(mask_token_id=MASK)
    steps = sampler(cache, amount, size, from_start).iterate(model, tokens, process, attention_mask=mask)
    worst = 0.0
    for windows in zip(*expected, strict=True):  # the rows go through their windows together
        for k in range(max(map(len, windows))):
            step = next(steps)
            for i, window in enumerate(windows):
                row, confidence = window[min(k, len(window) - 1)]
                if k >= len(window):  # the row waits for others
                    confidence = torch.full_like(confidence, torch.nan)
                mine = step.confidence[i][mask[i]].double()
                if not torch.equal(step.tokens[i][mask[i]], row) or not torch.equal(mine.isnan(), confidence.isnan()):
                    return math.inf
                worst = max(worst, float((mine - confidence).abs().nan_to_num().max()))
    assert next(steps, None) is None
    return worst


CACHES: list[tuple[Any, Rule]] = [
    (NoCache(), lambda call: call.whole()),
    (DistinctRows(), lambda call: call.whole()),
    (PrefixCache(), prefix()),
    (PrefixCache(refresh=3, warm_up=2), prefix(refresh=3, warm_up=2)),
    (DualCache(), dual()),
    (DualCache(refresh=3), dual(refresh=3)),
    (VicinityCache(warm_up=4, radius=2), dual(warm_up=4, radius=2)),
    (VicinityCache(warm_up=1, radius=4, refresh=4), dual(refresh=4, radius=4)),
    (DelayedCache(refresh=None), delayed(None)),
    (DelayedCache(refresh=4), delayed(4)),
    (IntervalCache(prompt_interval=20, interval=4, share=0.2), interval(20, 4, 0.2)),
    (IntervalCache(prompt_interval=5, interval=2, share=0.4), interval(5, 2, 0.4)),
]
EVERY_CACHE = pytest.mark.parametrize(("cache", "rule"), CACHES, ids=[str(cache) for cache, _ in CACHES])
SHIFTS = pytest.mark.parametrize("shift", [False, True], ids=["plain", "shifted"])


@EVERY_CACHE
@SHIFTS
@pytest.mark.parametrize("amount", [Amount(1), Amount(threshold=0.2), Amount(2, blind=True)], ids=str)
def test_a_cache_keeps_what_it_says(cache: Any, rule: Rule, shift: bool, amount: Amount) -> None:
    model = build(shift=shift, num_kv_heads=1) if amount.blind else build(shift=shift)
    assert worst_difference(model, cache, rule, amount, SIZE) < TOLERANCE


@EVERY_CACHE
@SHIFTS
def test_without_blocks(cache: Any, rule: Rule, shift: bool) -> None:
    assert worst_difference(build(shift=shift), cache, rule, Amount(threshold=0.2), None) < TOLERANCE


@EVERY_CACHE
@SHIFTS
@pytest.mark.parametrize("prompt", [[MASK, 3, 7], [3, MASK, 4, 1, MASK, MASK, 8]], ids=["gap in front", "gaps"])
def test_gaps_in_the_prompt(cache: Any, rule: Rule, shift: bool, prompt: list[int]) -> None:
    assert worst_difference(build(shift=shift), cache, rule, Amount(2), SIZE, prompts=[prompt]) < TOLERANCE


@SHIFTS
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("new", [12, 14])
def test_the_exact_cache_is_exact(shift: bool, size: int, new: int) -> None:
    """Prompts differ by whole blocks, as they must."""
    model, prompts = build(shift=shift, block_length=4), [[3, 9, 4, 1, 22, 8, 7, 5], [5, 6, 7, 2], [1] * 12]
    if size == 8:
        prompts = [prompts[0], [2] * 16]
    for amount in (Amount(1), Amount(threshold=0.15)):
        arguments = model, ExactCache(), lambda call: call.whole(), amount, size, True
        assert worst_difference(*arguments, prompts=prompts, new=new) < TOLERANCE


def hiding_what_follows(call: Call) -> Tensor:
    """`dual()`, but what is right of the window isn't looked at."""
    short = ByHand(call.network.model, call.stop)
    if call.index == 0:
        return call.whole()
    for mine, theirs in ((short.keys, call.network.keys), (short.values, call.network.values)):
        for layer in range(len(mine)):
            mine[layer] = theirs[layer][: call.stop]  # a view: what is renewed is renewed in both
    columns = torch.arange(max(0, call.start - call.network.lead), call.stop)
    log_p = torch.full((call.network.length, call.network.model.vocab_size), torch.nan).double()
    log_p[: call.stop] = short.region(call.tokens[: call.stop], columns)
    return log_p


def without_delay(call: Call) -> Tensor:
    """`delayed(None)`, but what the last step wrote isn't computed again."""
    return delayed(None)(Call(**{**vars(call), "before": call.tokens}))


def two_steps_late() -> Rule:
    """`delayed(None)`, but a token is kept two steps after it was written."""
    canvases: list[Tensor] = []

    def rule(call: Call) -> Tensor:
        canvases[:] = [*canvases[-1:], call.before] if call.index else [call.tokens]
        return delayed(None)(Call(**{**vars(call), "before": canvases[0]}))

    return rule


WRONG: dict[str, tuple[Any, Rule]] = {
    "nothing is kept": (DualCache(), lambda call: call.whole()),
    "dual for prefix": (PrefixCache(), dual()),
    "prefix for dual": (DualCache(), prefix()),
    "a refresh too late": (DualCache(refresh=3), dual(refresh=4)),
    "no warm-up": (VicinityCache(warm_up=2, radius=2), dual(radius=2)),
    "a neighbour too few": (VicinityCache(warm_up=1, radius=2), dual(radius=1)),
    "a neighbour too many": (DualCache(), dual(radius=1)),
    "later columns are hidden": (DualCache(), hiding_what_follows),
    "no delay": (DelayedCache(refresh=None), without_delay),
    "too much delay": (DelayedCache(refresh=None), two_steps_late()),
    "a refresh of the delayed too soon": (DelayedCache(refresh=4), delayed(3)),
    "a smaller share": (IntervalCache(20, 4, 0.4), interval(20, 4, 0.2)),
    "a longer interval": (IntervalCache(20, 4, 0.2), interval(20, 5, 0.2)),
    "the prompt too late": (IntervalCache(4, 2, 0.2), interval(6, 2, 0.2)),
}


@SHIFTS
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found_out(name: str, shift: bool) -> None:
    cache, rule = WRONG[name]
    assert worst_difference(build(shift=shift), cache, rule, Amount(1), SIZE) > 1000 * TOLERANCE
