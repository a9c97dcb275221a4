"""Caches: equal to no cache where they must be, approximations elsewhere, and the same for ragged batches."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.denoiser import as_denoiser
from llada.process import MaskingProcess
from llada.samplers import (
    Binomial,
    Blocks,
    CachePolicy,
    CappedRemasking,
    DelayedCache,
    DistinctRows,
    DualCache,
    ExactCache,
    Guidance,
    IntervalCache,
    NoCache,
    PerStep,
    PrefixCache,
    Proposal,
    Quota,
    RandomOrder,
    Threshold,
    UnmaskingSampler,
    VicinityCache,
    canvas,
)

PROCESS = MaskingProcess(mask_token_id=31)
PROMPTS = [[3, 9, 4, 1, 22, 8], [5, 6, 7], [12, 13, 2, 2, 9]]


def build(**options: int | bool) -> BidirectionalTransformer:
    torch.manual_seed(3)
    model = BidirectionalTransformer(32, width=32, num_layers=3, num_heads=2, **options).double().eval()
    for parameter in model.parameters():  # far from the initialisation, where attention hardly matters
        parameter.data.mul_(2.5)
    return model


def batch(num_new_tokens: int = 16) -> tuple[Tensor, Tensor]:
    return canvas(PROMPTS, num_new_tokens, mask_token_id=31, pad_token_id=0)[:2]


FRESH: list[CachePolicy] = [
    PrefixCache(refresh=1),
    DualCache(refresh=1),
    VicinityCache(refresh=1, radius=2),
    DelayedCache(refresh=1),
    IntervalCache(interval=1, prompt_interval=1),
    IntervalCache(interval=1, prompt_interval=1, share=1.0),
    VicinityCache(warm_up=1, radius=1000),  # the vicinity is everything
    DualCache(warm_up=1000),
]
STALE: list[CachePolicy] = [
    PrefixCache(),
    DualCache(),
    DualCache(refresh=3),
    VicinityCache(warm_up=2, radius=2),
    DelayedCache(refresh=None),
    DelayedCache(refresh=3),
    IntervalCache(prompt_interval=20, interval=4, share=0.3),
]


@pytest.mark.parametrize("options", [{}, {"shift": True}, {"num_kv_heads": 1, "qk_norm": True}], ids=str)
@pytest.mark.parametrize("policy", FRESH, ids=str)
def test_a_cache_that_reuses_nothing_is_no_cache(policy: CachePolicy, options: dict[str, int | bool]) -> None:
    tokens, mask = batch()
    sampler = UnmaskingSampler(Quota(12), window=Blocks(8), proposal=Proposal(temperature=0.7))
    model = build(**options)
    expected = list(sampler.iterate(model, tokens, PROCESS, attention_mask=mask))
    steps = list(replace(sampler, cache=policy).iterate(model, tokens, PROCESS, attention_mask=mask))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(expected, steps, strict=True))
    torch.testing.assert_close(steps[-1].confidence, expected[-1].confidence, equal_nan=True, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("policy", STALE, ids=str)
def test_a_cache_is_an_approximation(policy: CachePolicy) -> None:
    tokens, mask = batch()
    sampler = UnmaskingSampler(Quota(16), window=Blocks(8))
    expected = list(sampler.iterate(build(), tokens, PROCESS, attention_mask=mask))
    steps = list(replace(sampler, cache=policy).iterate(build(), tokens, PROCESS, attention_mask=mask))
    assert torch.equal(steps[0].confidence.nan_to_num(0), expected[0].confidence.nan_to_num(0))
    assert not all(
        torch.allclose(a.confidence, b.confidence, equal_nan=True) for a, b in zip(expected, steps, strict=True)
    )


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("policy", [*STALE, ExactCache()], ids=str)
def test_a_row_of_a_ragged_batch_is_the_row_alone(policy: CachePolicy, shift: bool) -> None:
    exact = isinstance(policy, ExactCache)
    window = Blocks(4, from_start=True) if exact else Blocks(8)
    model = build(block_length=4, shift=shift) if exact else build(shift=shift)
    prompts = [[1] * 8, [2, 3, 4, 5], [6] * 12] if exact else PROMPTS
    tokens, mask, _ = canvas(prompts, 16, mask_token_id=31, pad_token_id=0)
    sampler = UnmaskingSampler(Threshold(0.4), window=window, cache=policy, proposal=Proposal(temperature=1.0))
    together = sampler(model, tokens, PROCESS, seed=5, attention_mask=mask)
    for row, prompt in enumerate(prompts):
        single, single_mask, _ = canvas([prompt], 16, mask_token_id=31, pad_token_id=0)
        alone = sampler(model, single, PROCESS, seed=5 + row, attention_mask=single_mask)
        assert torch.equal(alone.tokens[0], together.tokens[row][mask[row]])
        assert alone.calls[0] == together.calls[row]
    assert len(set(together.calls.tolist())) > 1  # rows end at different steps


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "policy",
    [
        IntervalCache(20, 4, 0.3),
        IntervalCache(3, 2, 0.1),
        IntervalCache(1, 1),
        PrefixCache(5),
        VicinityCache(None, 1, 2),
    ],
    ids=str,
)
def test_rows_whose_first_gaps_differ_share_a_cache(policy: CachePolicy, shift: bool) -> None:
    prompts = [[3, 31, 4, 1, 31, 31, 8], [5, 6, 7, 2], [12, 13, 2, 31, 9, 31, 1, 4, 4]]
    tokens, mask, _ = canvas(prompts, 12, mask_token_id=31, pad_token_id=0)
    model, sampler = build(shift=shift), UnmaskingSampler(PerStep(1), cache=policy, proposal=Proposal(1.0))
    together = sampler(model, tokens, PROCESS, seed=5, attention_mask=mask)
    for row, prompt in enumerate(prompts):
        alone = sampler(model, canvas([prompt], 12, mask_token_id=31, pad_token_id=0).tokens, PROCESS, seed=5 + row)
        assert torch.equal(alone.tokens[0], together.tokens[row][mask[row]])
    if isinstance(policy, IntervalCache):
        plain = replace(sampler, cache=NoCache())(model, tokens, PROCESS, seed=5, attention_mask=mask)
        assert torch.equal(plain.tokens, together.tokens) == (policy == IntervalCache(1, 1))


@pytest.mark.parametrize("policy", [*STALE[:4], STALE[6]], ids=str)
def test_caches_under_guidance_hold_both_inputs(policy: CachePolicy) -> None:
    tokens, mask = batch()
    sampler = UnmaskingSampler(Quota(8), window=Blocks(8), guidance=Guidance(1.0))
    plain = sampler(build(), tokens, PROCESS, attention_mask=mask)
    fresh = replace(policy, **({"interval": 1, "prompt_interval": 1} if policy == STALE[6] else {"refresh": 1}))
    cached = replace(sampler, cache=fresh)(build(), tokens, PROCESS, attention_mask=mask)
    assert torch.equal(plain.tokens, cached.tokens)
    stale = replace(sampler, cache=policy)(build(), tokens, PROCESS, attention_mask=mask)
    assert not PROCESS.is_masked(stale.tokens).any()


@pytest.mark.parametrize("length", [16, 18])
@pytest.mark.parametrize("blocks", [4, 8])
@pytest.mark.parametrize("options", [{}, {"shift": True}], ids=str)
def test_the_cache_of_a_block_causal_model_is_exact(blocks: int, length: int, options: dict[str, bool]) -> None:
    model, seen = build(block_length=4, **options), []
    tokens = canvas([[3, 9, 4, 1, 22, 8]], length, mask_token_id=31, pad_token_id=0).tokens
    sampler = UnmaskingSampler(Quota(12), window=Blocks(blocks, from_start=True), proposal=Proposal(temperature=1.0))
    expected = list(sampler.iterate(model, tokens, PROCESS))
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    steps = list(replace(sampler, cache=ExactCache()).iterate(model, tokens, PROCESS))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(expected, steps, strict=True))
    for a, b in zip(expected, steps, strict=True):
        torch.testing.assert_close(a.confidence, b.confidence, equal_nan=True)
    assert max(seen) <= 2 * blocks + (4 if options else 0)  # the block, and the one before it when it is first opened


def test_later_blocks_are_not_seen_by_a_block_causal_model() -> None:
    model, tokens = build(block_length=4), torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 8:] += 3
    assert torch.equal(model(tokens)[:, :8], model(changed)[:, :8])
    changed[0, 7] += 3
    assert not torch.allclose(model(tokens)[:, 4:8], model(changed)[:, 4:8])
    assert torch.equal(model(tokens)[:, :4], model(changed)[:, :4])
    padded, mask = torch.cat((torch.zeros(1, 3, dtype=torch.int64), tokens), 1), torch.ones(1, 15, dtype=torch.bool)
    mask[:, :3] = False
    torch.testing.assert_close(model(padded, attention_mask=mask)[:, 3:], model(tokens))


class Counted:
    """Counts the tokens that go through a backbone's layers."""

    def __init__(self, model: BidirectionalTransformer) -> None:
        self.tokens: list[int] = []
        model.blocks[-1].attention.register_forward_hook(lambda _, inputs, __: self.tokens.append(inputs[0].shape[1]))


def test_what_each_policy_computes() -> None:
    tokens = canvas([[3, 9, 4, 1, 22, 8, 2, 2]], 8, mask_token_id=31, pad_token_id=0).tokens
    expected = {
        NoCache(): [16] * 8,
        PrefixCache(): [16, 8, 8, 8, 16, 4, 4, 4],
        DualCache(): [16, 4, 4, 4, 16, 4, 4, 4],
        VicinityCache(warm_up=2, radius=1): [16, 16, 6, 6, 16, 5, 5, 5],
        DelayedCache(refresh=3): [16, 8, 7, 16, 16, 4, 3, 16],
        IntervalCache(prompt_interval=9, interval=3, share=0.25): [16, 2, 2, 8, 16, 2, 2, 8],
        IntervalCache(prompt_interval=3, interval=2, share=0.5): [16, 4, 8, 16, 16, 4, 8, 16],
    }
    for policy, counts in expected.items():
        model = build()
        counted = Counted(model)
        UnmaskingSampler(Quota(8), window=Blocks(4), cache=policy)(model, tokens, PROCESS)
        assert counted.tokens == counts, policy


def test_equal_rows_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to the same prompts, padded and with levels: values and gradients are those of all rows."""
    tokens, mask = batch()
    tokens, mask = tokens.repeat_interleave(3, 0), mask.repeat_interleave(3, 0)
    tokens[1, -1] = 5  # an answer of the first prompt's is on its own
    mask[8, 0] = ~mask[8, 0]  # equal tokens under another mask aren't equal
    model, seen = build(), []
    denoiser = as_denoiser(model)
    inner = denoiser.logits
    denoiser.logits = lambda rows, *others, **inputs: seen.append(len(rows)) or inner(rows, *others, **inputs)
    columns = torch.randint(tokens.shape[1], (9, 4), generator=torch.Generator().manual_seed(0))
    for where in (None, tokens == 31, columns):
        found = []
        for policy in (NoCache(), DistinctRows()):
            opened = policy.open(denoiser, columns[:, 0], tokens.shape[1], {"attention_mask": mask})
            logits = opened.logits(tokens, where, attention_mask=mask)
            weight = torch.arange(logits.numel(), dtype=torch.float64).view_as(logits).sin()
            found.append([logits, *torch.autograd.grad((logits * weight).sum(), list(model.parameters()))])
        for mine, plain in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(mine, plain)
    assert seen == [9, 5] * 3
    monkeypatch.setattr("llada.samplers.caches.distinct._digest", lambda column: column.new_zeros(len(column)))
    again = DistinctRows().open(as_denoiser(model), columns[:, 0], tokens.shape[1], {})
    torch.testing.assert_close(again.logits(tokens, None, attention_mask=mask), model(tokens, attention_mask=mask))
    levels = torch.tensor([0.5, 0.5, 0.2])
    told = DistinctRows().open(as_denoiser(lambda t, sigma: t + sigma[:, None]), levels, 1, {})
    assert told.logits(torch.ones(3, 1), sigma=levels).flatten().tolist() == pytest.approx([1.5, 1.5, 1.2])


def test_no_step_asks_the_device_how_many_masks_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = batch()
    asked: list[int] = []
    plain = Tensor.__int__
    # On the CPU the backbone looks at the token ids; that isn't what is counted here.
    monkeypatch.setattr("llada.backbones.body.check_inputs", lambda *_, **__: None)
    monkeypatch.setattr(Tensor, "__int__", lambda self: asked.append(1) or plain(self))
    monkeypatch.setattr(Tensor, "__bool__", lambda self: asked.append(1) or self.item())
    for policy in (NoCache(), DualCache(), DelayedCache(), IntervalCache()):
        model, counts = build(), []
        for steps in (4, 12):
            asked.clear()
            UnmaskingSampler(Quota(steps), cache=policy, order=RandomOrder())(
                model, tokens, PROCESS, attention_mask=mask
            )
            counts.append(len(asked))
        assert counts[0] == counts[1], policy


@pytest.mark.parametrize("policy", [DualCache(), DelayedCache(), IntervalCache(), ExactCache()], ids=str)
def test_a_model_without_cache_is_refused(policy: CachePolicy) -> None:
    sampler = UnmaskingSampler(Quota(2), cache=policy, window=Blocks(4, from_start=True))
    with pytest.raises(ValueError, match=r"has no new_cache.*NoCache"):
        sampler(lambda tokens: torch.zeros(*tokens.shape, 32), torch.full((1, 4), 31), PROCESS)


def test_wrong_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"masked prompt .*use DualCache"):
        UnmaskingSampler(cache=DelayedCache(), guidance=Guidance(1.0))
    with pytest.raises(ValueError, match=r"CappedRemasking masks tokens again.*NoCache"):
        UnmaskingSampler(Binomial(4), rates=CappedRemasking(), cache=DualCache())
    with pytest.raises(ValueError, match="from_start=True"):
        UnmaskingSampler(cache=ExactCache(), window=Blocks(4))
    tokens = canvas([[1, 2, 3, 4]], 8, mask_token_id=31, pad_token_id=0).tokens
    exact = UnmaskingSampler(Quota(8), cache=ExactCache(), window=Blocks(6, from_start=True))
    with pytest.raises(ValueError, match="isn't block-causal"):
        exact(build(), tokens, PROCESS)
    with pytest.raises(ValueError, match=r"whole blocks of the model.*Blocks\(4"):
        exact(build(block_length=4), tokens, PROCESS)
    for policy in (DualCache(), PrefixCache(), VicinityCache()):
        with pytest.raises(ValueError, match="1 or more"):
            replace(policy, refresh=0)
    with pytest.raises(ValueError, match="share in"):
        IntervalCache(share=0.0)
