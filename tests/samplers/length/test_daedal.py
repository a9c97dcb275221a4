"""DAEDAL's rules against a plain implementation of one row, and on a model that knows how long its answer is."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from examples.compositions import MASK, PROCESS, network
from llada.samplers import (
    Ancestral,
    Blocks,
    Credit,
    Daedal,
    DelayedCache,
    DreamOn,
    DualCache,
    LeftToRight,
    LengthPolicy,
    NoCache,
    PerStep,
    PrefixCache,
    Proposal,
    Quota,
    ResizingSampler,
    Sliding,
    SpeculativeSampler,
    Threshold,
    UnmaskingSampler,
    canvas,
)
from llada.text import stream_text

EOS = 22
PROMPTS = [[1, 7, 3, 9, 5], [4, 3], [6, 2, 8, 1, 4, 9, 3]]


class Leaning(torch.nn.Module):
    """A network that leans to EOS the more, the further a position is behind the prompt."""

    def __init__(self, slope: float, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.slope, self.scale = network(()), slope, scale

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask.bool()
        place = real.cumsum(1) - 1
        logits = self.scale * self.inner(tokens, attention_mask=real)
        logits[..., EOS] += self.slope * (place - 12)
        return logits


def plain(model: Any, prompt: list[int], first: int, most: int, block: int, rule: Daedal, threshold: float) -> Any:
    """The rule for one row, step by step; tokens and calls."""
    begin, row, calls = len(prompt), [*prompt, *[MASK] * first], 0

    def ask() -> tuple[Tensor, Tensor, float]:
        logits = model(torch.tensor([row]))[0].clone()
        logits[:, MASK] = -torch.inf
        p = logits.softmax(-1)
        ends = [p[i, EOS].item() for i in range(len(row) - 1, begin - 1, -1) if p[i].argmax() == EOS]
        best = p.max(-1)
        return best.values, best.indices, sum(ends[: rule.end_tokens]) / rule.end_tokens

    while True:
        _, _, sure = ask()
        calls += 1
        room = most - (len(row) - begin)
        if sure >= rule.end_threshold or room <= 0:
            row += [EOS] * max(0, min(rule.end_tokens // 2, room))
            break
        row += [MASK] * min(rule.expand_by, room)
    at = begin
    while at < len(row):
        p, favourite, sure = ask()
        calls += 1
        inside = [i for i in range(at, min(at + block, len(row))) if row[i] == MASK]
        written = [i for i in inside if p[i] >= threshold] or [max(inside, key=lambda i: p[i].item())]
        weak = [i for i in inside if i not in written and p[i] < rule.low_threshold]
        expand = None
        if weak and sure < rule.expand_end_threshold and len(row) - begin < most:
            expand = min(weak, key=lambda i: p[i].item())
        for i in written:
            row[i] = int(favourite[i])
        if expand is not None:
            row[expand : expand + 1] = [MASK] * rule.expand_by
            row = row[: begin + most]
        while at < len(row) and MASK not in row[at : at + block]:
            if EOS in row[at : at + block] and MASK in row:
                row = [EOS if token == MASK else token for token in row]
            at += block
    return row, calls


RULES = [
    (Leaning(0.4, 0.3), Daedal(end_tokens=6, expand_by=4, low_threshold=0.3), 0.6),
    (Leaning(0.1, 0.2), Daedal(end_tokens=4, expand_by=3, low_threshold=0.6, expand_end_threshold=0.95), 0.9),
    (Leaning(1.0, 0.5), Daedal(0.2, 0.3, 3, 0.5, 5), 0.7),
    (Leaning(-1.0, 0.3), Daedal(end_tokens=6, expand_by=4, low_threshold=0.3), 0.4),
]


@pytest.mark.parametrize("index", range(len(RULES)))
def test_a_batch_is_the_plain_rule_row_by_row(index: int) -> None:
    model, rule, threshold = RULES[index]
    inner = UnmaskingSampler(Threshold(threshold), window=Blocks(5))
    sizes = set()
    for first, most in ((4, 30), (9, 21)):
        tokens, mask, _ = canvas(PROMPTS, first, mask_token_id=MASK, pad_token_id=0)
        sample = ResizingSampler(inner, rule, EOS, most)(model, tokens, PROCESS, attention_mask=mask)
        for row, prompt in enumerate(PROMPTS):
            expected, calls = plain(model, prompt, first, most, 5, rule, threshold)
            assert sample.tokens[row][sample.attention_mask[row]].tolist() == expected
            assert sample.calls[row] == calls
            assert sample.generated[row] == len(expected) - len(prompt)
            assert sample.given[row].sum() == len(sample.given[row]) - sample.generated[row]
            sizes.add(len(expected) - len(prompt))
    assert len(sizes) > 1 or index == 3


class Knowing(torch.nn.Module):
    """Knows its answer: n tokens for a prompt that ends with n, surely if there is room for them, and EOS behind."""

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens).bool() if attention_mask is None else attention_mask.bool()
        wanted = torch.full_like(tokens, EOS)
        for row in range(len(tokens)):
            prompt = next(p for p in PROMPTS if p == tokens[row][real[row]][: len(p)].tolist())
            start = int(real[row].int().argmax()) + len(prompt)
            text = [10 + i % 7 for i in range(3 * prompt[-1])]
            wanted[row, start : start + len(text)] = torch.tensor(text)[: max(0, tokens.shape[1] - start)]
        return 9.0 * torch.nn.functional.one_hot(wanted, 24).double()


@pytest.mark.parametrize("first", [1, 8, 30])
def test_the_answer_is_as_long_as_the_model_knows_it_to_be(first: int) -> None:
    inner = UnmaskingSampler(Threshold(0.9), window=Blocks(8))
    sampler = ResizingSampler(inner, Daedal(end_tokens=8), EOS, 200)
    tokens, mask, given = canvas(PROMPTS, first, mask_token_id=MASK, pad_token_id=0)
    sample = sampler(Knowing(), tokens, PROCESS, attention_mask=mask)
    for row, prompt in enumerate(PROMPTS):
        text = sample.tokens[row][~sample.given[row]].tolist()
        assert text[: text.index(EOS)] == [10 + i % 7 for i in range(3 * prompt[-1])]
        assert set(text[text.index(EOS) :]) == {EOS}
        steps = sampler.iterate(Knowing(), tokens, PROCESS, attention_mask=mask)
        streamed = "".join(stream_text(steps, given, lambda ids: bytes(ids).decode(), row=row, stops=frozenset({EOS})))
        assert list(streamed.encode()) == text[: text.index(EOS)]
    short = ResizingSampler(inner, Daedal(end_tokens=8), EOS, 10)(Knowing(), tokens, PROCESS, attention_mask=mask)
    assert short.generated.max() <= max(10, first)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_is_what_it_is_alone(temperature: float) -> None:
    """With a cache that is refreshed now and then, and draws."""
    rule = Daedal(0.0, 1.1, 2, 0.5, 3)
    inner = UnmaskingSampler(
        Threshold(0.8), window=Blocks(5), proposal=Proposal(temperature), cache=PrefixCache(refresh=3)
    )
    sampler = ResizingSampler(inner, rule, EOS, 40)
    net = network((("shift", True),))
    tokens, mask, _ = canvas(PROMPTS, 6, mask_token_id=MASK, pad_token_id=0)
    together = sampler(net, tokens, PROCESS, seed=3, attention_mask=mask)
    lengths = together.attention_mask.sum(1) - torch.tensor([len(prompt) for prompt in PROMPTS])
    assert len(set(lengths.tolist())) > 1
    for row in range(len(PROMPTS)):
        alone = sampler(net, tokens[row][mask[row]][None], PROCESS, seed=3 + row)
        assert alone.tokens[0].tolist() == together.tokens[row][together.attention_mask[row]].tolist()
        assert alone.calls[0] == together.calls[row]


@pytest.mark.parametrize(
    "rule", [Daedal(0.0, 1.1, 2, 0.5, 3), DreamOn(21, 20, expand_steps=9)], ids=["Daedal", "DreamOn"]
)
def test_what_a_causal_model_keeps_is_exact(rule: LengthPolicy) -> None:
    """Nothing to the right is seen, so the keys of finished blocks never change: the text is that without a cache."""
    net = network((("causal", True), ("shift", True)))
    inner = UnmaskingSampler(Threshold(0.3), window=Blocks(4), proposal=Proposal(1.0))
    rows = [[*prompt, *[MASK] * 9] for prompt in PROMPTS]
    tokens, mask, given = canvas(rows, 0, mask_token_id=MASK, pad_token_id=0)
    kept, plain = (
        ResizingSampler(replace(inner, cache=cache), rule, EOS, 20)(
            net, tokens, PROCESS, given=given, seed=3, attention_mask=mask
        )
        for cache in (PrefixCache(), NoCache())
    )
    assert torch.equal(kept.tokens, plain.tokens)
    assert torch.equal(kept.calls, plain.calls)
    assert len(set(plain.generated.tolist())) > 1


@dataclass(frozen=True)
class Chances(Threshold):
    """An amount that asks the rates how likely it is to write."""

    by_rates: ClassVar[bool] = True


@dataclass(frozen=True)
class Forgetting(Ancestral):
    """Rates by which tokens are taken back."""

    remasks: ClassVar[bool] = True


def test_what_cannot_follow_says_so() -> None:
    blocks: dict[str, Any] = {"window": Blocks(4)}
    for sampler, reason in (
        (UnmaskingSampler(Quota(4), **blocks), "Quota shares steps"),
        (UnmaskingSampler(Threshold(), adjustments=(Credit(),), **blocks), "Credit looks at"),
        (UnmaskingSampler(Threshold(), cache=DelayedCache(), **blocks), "DelayedCache wants all rows in one window"),
        (UnmaskingSampler(Threshold(), cache=DualCache(), **blocks), "Daedal looks at the end of rows, which Dual"),
        (SpeculativeSampler(**blocks), "SpeculativeSampler can't follow"),
        (UnmaskingSampler(PerStep(1), LeftToRight(), **blocks), "LeftToRight plans places beforehand"),
        (
            UnmaskingSampler(Threshold(), rates=Forgetting(), **blocks),
            "Forgetting needs a number of masks",
        ),
        (UnmaskingSampler(Chances(), **blocks), "Ancestral needs"),
        (UnmaskingSampler(Threshold(), window=Sliding(4)), "Sliding has no blocks"),
    ):
        with pytest.raises(ValueError, match=reason):
            ResizingSampler(sampler, Daedal(), EOS, 8)  # type: ignore[arg-type]
    inner = UnmaskingSampler(Threshold(), **blocks)
    with pytest.raises(ValueError, match="a token that ends it"):
        ResizingSampler(inner, Daedal(), None, 8)
    with pytest.raises(ValueError, match="max_new_tokens must be 1 or more; got 0"):
        ResizingSampler(inner, Daedal(), EOS, 0)
    with pytest.raises(ValueError, match="end_tokens and expand_by must be 1 or more; got 0 and 8"):
        Daedal(end_tokens=0)
    tokens, mask, _ = canvas(PROMPTS, 4, mask_token_id=MASK, pad_token_id=0)
    with pytest.raises(ValueError, match="rows of up to 37 tokens, and the model takes 20; ask for at most 13"):
        ResizingSampler(inner, Daedal(), EOS, 30)(network((("max_length", 20),)), tokens, PROCESS, attention_mask=mask)
    with pytest.raises(ValueError, match="come about in several ways"):
        ResizingSampler(inner, Daedal(), EOS, 8).likelihood(network(()), tokens, PROCESS)
