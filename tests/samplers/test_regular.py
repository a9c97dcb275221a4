"""A regular expression over the canvas, against all completions that there are."""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import Tensor

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import (
    AllowLists,
    Amount,
    Binomial,
    Blocks,
    Credit,
    EditingSampler,
    EntropyBound,
    ForwardBackwardRemasking,
    Guidance,
    LeftToRight,
    NegativeEntropy,
    PerStep,
    Proposal,
    Quota,
    RandomOrder,
    RegularExpression,
    Sampler,
    Sliding,
    SpeculativeSampler,
    Stability,
    State,
    Threshold,
    UnmaskingSampler,
    WholeCanvas,
    Window,
    canvas,
)
from llada.samplers.constraints.joint import agree
from tests.helpers import step_of
from tests.tiny_checkpoint import write_checkpoint


class Words:
    """A tokenizer by a list of what each token spells."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.vocab_size = len(words)

    def encode(self, text: str) -> list[int]:
        return [self.words.index(character) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.words[int(token)] for token in ids)


TOKENS = Words("a", "b", "ab", "ba", "", "", "\ufffd")
EOS, MASK, TORN = 4, 5, 6
PROCESS = MaskingProcess(MASK)
TEXT = (0, 1, 2, 3)


def uniform(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return torch.zeros(*tokens.shape, len(TOKENS.words))


def uneven(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Something that depends on the left neighbour and the place counted from the end."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(12, 7, 7, generator=generator)
    places = torch.arange(tokens.shape[1] - 1, -1, -1) % 12
    seen = tokens if attention_mask is None else tokens * attention_mask
    left = torch.nn.functional.pad(seen, (1, 0))[:, :-1]
    return 2.0 * table[places, left]


def matches(row: Iterable[int], pattern: str, end: tuple[int, ...]) -> bool:
    """The text tokens in front match, and only end tokens follow."""
    row = list(row)
    while row and row[-1] in end:
        row.pop()
    return all(token in TEXT for token in row) and bool(re.fullmatch(pattern, TOKENS.decode(row)))


def completions(row: list[int], pattern: str, end: tuple[int, ...]) -> list[tuple[int, ...]]:
    choices = [(*TEXT, EOS) if token == MASK else (token,) for token in row]
    return [whole for whole in product(*choices) if matches(whole, pattern, end)]


def state_of(tokens: Tensor) -> State:
    state = State.begin(PROCESS, tokens, None, RowRandom.from_seed(0, len(tokens)))
    return replace(state, columns=torch.arange(tokens.shape[1]).expand_as(tokens), valid=state.open)


def patterns() -> st.SearchStrategy[str]:
    letters = st.sampled_from(["a", "b", "[ab]", "[^a]", "."])
    return st.recursive(
        letters,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
            st.tuples(inner, st.sampled_from(["*", "?", "+", "{2}", "{1,3}", "{0,2}"])).map(
                lambda two: f"(?:{two[0]}){two[1]}"
            ),
        ),
        max_leaves=6,
    )


@settings(max_examples=60, deadline=None)
@given(patterns(), st.lists(st.sampled_from([MASK, MASK, MASK, *TEXT, EOS]), min_size=1, max_size=4), st.booleans())
def test_allowed_is_what_some_completion_has(pattern: str, row: list[int], ends: bool) -> None:
    """Random expressions and canvases, against the list of all completions."""
    end = (EOS,) if ends else ()
    tokens = torch.tensor([row])
    rule = RegularExpression(pattern, TOKENS, end, part=(0, len(row)))
    whole = completions(row, pattern, end)
    if not whole:
        with pytest.raises(ValueError, match=r"row 0 can't be made to match"):
            rule.start(state_of(tokens))
        return
    state = state_of(tokens)
    logits = rule.start(state)(uniform(tokens), state)
    for place, token in enumerate(row):
        if token == MASK:
            allowed = (logits[0, place] > -torch.inf).nonzero().flatten().tolist()
            assert allowed == sorted({found[place] for found in whole})


@settings(max_examples=40, deadline=None)
@given(patterns(), st.integers(1, 5), st.integers(0, 1000))
def test_a_step_that_writes_everything_at_once_still_matches(pattern: str, length: int, seed: int) -> None:
    tokens = torch.full((8, length), MASK)
    rule = RegularExpression(pattern, TOKENS, (EOS,))
    if not completions([MASK] * length, pattern, (EOS,)):
        return
    sampler = UnmaskingSampler(Quota(1), proposal=Proposal(1.0), adjustments=(rule,))
    sample = sampler(uneven, tokens, PROCESS, seed=seed)
    assert sample.calls.tolist() == [1] * 8
    assert all(matches(row, pattern, (EOS,)) for row in sample.tokens.tolist())


EXPRESSION = "(a|bb)+(ab)?"
SAMPLERS: dict[str, UnmaskingSampler] = {
    "one by one": UnmaskingSampler(PerStep(1)),
    "left to right": UnmaskingSampler(PerStep(2), order=LeftToRight(), proposal=Proposal(1.0)),
    "random": UnmaskingSampler(Quota(2), order=RandomOrder(), proposal=Proposal(1.0)),
    "nucleus": UnmaskingSampler(Quota(2), proposal=Proposal(0.7, top_p=0.5, top_k=2)),
    "ancestral": UnmaskingSampler(Binomial(3), order=RandomOrder(), proposal=Proposal(1.0)),
    "taken back": UnmaskingSampler(
        Binomial(6), order=RandomOrder(), proposal=Proposal(1.0), rates=ForwardBackwardRemasking()
    ),
    "threshold": UnmaskingSampler(Threshold(0.2), proposal=Proposal(1.0)),
    "entropy": UnmaskingSampler(EntropyBound(5.0), order=NegativeEntropy(), proposal=Proposal(1.0)),
    "stability": UnmaskingSampler(Stability(0.1, 5.0, history=1), proposal=Proposal(1.0)),
    "blocks": UnmaskingSampler(Quota(4), window=Blocks(3, stop_token_ids=EOS), proposal=Proposal(1.0)),
    "sliding": UnmaskingSampler(Threshold(0.2), window=Sliding(3), proposal=Proposal(1.0)),
    "guided": UnmaskingSampler(Quota(2), guidance=Guidance(1.0), proposal=Proposal(1.0)),
    "credit": UnmaskingSampler(Threshold(0.3), adjustments=(Credit(),), proposal=Proposal(1.0)),
}


def under(sampler: UnmaskingSampler, rule: RegularExpression) -> UnmaskingSampler:
    return replace(sampler, adjustments=(*sampler.adjustments, rule))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_composition_writes_matches_and_rows_do_not_disturb_each_other(name: str) -> None:
    rule = RegularExpression(EXPRESSION, TOKENS, (EOS,))
    sampler = under(SAMPLERS[name], rule)
    prompts = [[0, 1, 1], [3], [2, 0], []] * 2
    tokens, mask, _ = canvas(prompts, 7, mask_token_id=MASK, pad_token_id=EOS)
    together = sampler(uneven, tokens, PROCESS, seed=5, attention_mask=mask)
    for row, prompt in enumerate(prompts):
        assert matches(together.tokens[row, -7:].tolist(), EXPRESSION, (EOS,))
        alone = torch.tensor([[*prompt, *[MASK] * 7]])
        single = sampler(uneven, alone, PROCESS, seed=5 + row)
        assert single.tokens[0].tolist() == together.tokens[row, 3 - len(prompt) :].tolist()
        assert int(single.calls) == int(together.calls[row])


@pytest.mark.parametrize("window", [WholeCanvas(), Blocks(3, stop_token_ids=EOS)])
def test_looking_ahead_gives_what_one_token_per_step_gives(window: Window) -> None:
    rule = RegularExpression(EXPRESSION, TOKENS, (EOS,))
    tokens, mask, _ = canvas([[0, 1, 1], [3], [2, 0], []], 8, mask_token_id=MASK, pad_token_id=EOS)
    slow = UnmaskingSampler(PerStep(1), window=window, adjustments=(rule,))
    fast = SpeculativeSampler(4, window=window, adjustments=(rule,))
    one, ahead = (sampler(uneven, tokens, PROCESS, attention_mask=mask) for sampler in (slow, fast))
    assert ahead.tokens.equal(one.tokens)
    assert ahead.calls.sum() < one.calls.sum()
    with pytest.raises(ValueError, match="which EditingSampler may change; use UnmaskingSampler"):
        EditingSampler(adjustments=(rule,))


@pytest.mark.parametrize("amount", [PerStep(1), Quota(2), Threshold(0.2)])
@pytest.mark.parametrize("row", [[MASK] * 4, [MASK, 1, MASK, MASK], [2, MASK, MASK, MASK]])
def test_under_a_uniform_model_exactly_the_matches_come_out(amount: Amount, row: list[int]) -> None:
    """The rarest of the results has 1/400 or more, so 8000 rows miss one of them for less than one seed in 10^6."""
    tokens = torch.tensor([row] * 8000)
    rule = RegularExpression(EXPRESSION, TOKENS, (EOS,), part=(0, 4))
    sampler = UnmaskingSampler(amount, proposal=Proposal(1.0), adjustments=(rule,))
    found = set(map(tuple, sampler(uniform, tokens, PROCESS).tokens.tolist()))
    assert found == set(completions(row, EXPRESSION, (EOS,)))


def test_what_contradicts_a_surer_token_is_drawn_again_or_left_for_later() -> None:
    tokens = torch.full((4000, 2), MASK)
    rule = RegularExpression("aa|bb", TOKENS)
    together = UnmaskingSampler(Quota(1), proposal=Proposal(1.0), adjustments=(rule,))(uniform, tokens, PROCESS)
    assert together.calls.unique().tolist() == [1]
    same = together.tokens[:, 0]
    assert together.tokens[:, 1].equal(same)
    assert abs(float((same == 0).double().mean()) - 0.5) < 4.5 * 0.5 / 4000**0.5  # one seed in 10^5
    patient = UnmaskingSampler(Threshold(0.0), proposal=Proposal(1.0), adjustments=(rule,))
    later = patient(uniform, tokens, PROCESS)
    assert later.tokens.equal(together.tokens[:, :1].expand(-1, 2))  # the first draw is the same
    assert abs(float((later.calls == 2).double().mean()) - 0.5) < 4.5 * 0.5 / 4000**0.5
    assert later.calls.max() == 2


def test_forbidden_tokens_are_not_counted_on() -> None:
    """Without "b" itself only "ab" ends in b."""
    tokens = torch.full((200, 3), MASK)
    rule = RegularExpression("a+b*", TOKENS)
    sampler = UnmaskingSampler(Quota(2), proposal=Proposal(1.0, suppress_tokens=(1,)), adjustments=(rule,))
    found = set(map(tuple, sampler(uniform, tokens, PROCESS).tokens.tolist()))
    assert found == {(0, 0, 0), (0, 0, 2)}
    with pytest.raises(ValueError, match="spell none at all"):
        UnmaskingSampler(proposal=Proposal(suppress_tokens=(1,)), adjustments=(RegularExpression("b+", TOKENS),))(
            uniform, tokens, PROCESS
        )


def test_a_model_that_rules_all_matches_out_is_overruled() -> None:
    def stubborn(tokens: Tensor) -> Tensor:
        return torch.full((*tokens.shape, 7), -torch.inf).index_fill(-1, torch.tensor([3]), 0.0)

    for proposal in (Proposal(), Proposal(0.5, top_p=0.9)):
        sampler = UnmaskingSampler(Quota(1), proposal=proposal, adjustments=(RegularExpression("a*", TOKENS),))
        assert sampler(stubborn, torch.full((2, 3), MASK), PROCESS).tokens.tolist() == [[0, 0, 0]] * 2


def test_a_gap_matches_alone_and_rows_have_gaps_of_their_own() -> None:
    tokens = torch.tensor([[1, MASK, MASK, 1, 1], [1, 1, 1, MASK, 1], [1, 1, 1, 1, 1]])
    sample = UnmaskingSampler(adjustments=(RegularExpression("a{1,4}", TOKENS),))(uneven, tokens, PROCESS)
    assert sample.tokens.tolist() == [[1, 0, 0, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]]


DATE = r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"
DIGITS = Words(*"0123456789-+.eE", "19", "20", "12", "00", "-0", "e-", "1.", "a", "", "")


@pytest.mark.parametrize("pattern", [DATE, NUMBER])
def test_dates_and_numbers(pattern: str) -> None:
    end, mask = DIGITS.vocab_size - 2, DIGITS.vocab_size - 1
    tokens = torch.full((64, 10), mask)
    sampler = UnmaskingSampler(
        Quota(4), proposal=Proposal(1.0), adjustments=(RegularExpression(pattern, DIGITS, (end,)),)
    )
    sample = sampler(lambda tokens: torch.zeros(*tokens.shape, DIGITS.vocab_size), tokens, MaskingProcess(mask)).tokens
    texts = {DIGITS.decode(row) for row in sample.tolist()}
    assert len(texts) > 30
    assert all(re.fullmatch(pattern, text, re.ASCII) for text in texts)


def run(rule: RegularExpression, row: list[int], model: object = uniform, **parts: object) -> Tensor:
    return UnmaskingSampler(adjustments=(rule,), **parts)(model, torch.tensor([[0, MASK], row][-1:]), PROCESS).tokens


@pytest.mark.parametrize(
    ("pattern", "row", "end", "message"),
    [
        ("a{5}|b{9}", [MASK] * 2, (), "no match takes just the 2 tokens from place 0 on, 2 of them masks, .*takes 5"),
        ("ab", [MASK, MASK, MASK], (), r"every match is over before place 2; .* end=\(EOS,\)"),
        ("a*", [MASK, 1, MASK], (), "the given token 1 can't stand at place 1"),
        ("a*", [MASK, EOS, MASK], (), "the given token 4 can't stand at place 1"),
        (".*", [MASK, TORN, MASK], (), "the given token 6 can't stand at place 1"),
        ("c+", [MASK, MASK], (), "the tokens that may be written spell none at all"),
    ],
)
def test_a_row_without_a_match_is_named_with_the_reason(
    pattern: str, row: list[int], end: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^row 0 can't be made to match .*: {message}"):
        run(RegularExpression(pattern, TOKENS, end), row)


def test_expressions_that_are_none_are_refused() -> None:
    for pattern, message in (
        ("(", "is no regular expression"),
        ("^a$", "no anchors such as"),
        (r"(a)\1", "references to groups"),
        (r"\bab", "word boundaries"),
        ("(?!a)a", "matches no text at all"),
    ):
        with pytest.raises(ValueError, match=message):
            RegularExpression(pattern, TOKENS)
    with pytest.raises(ValueError, match="end behind its begin"):
        RegularExpression("a", TOKENS, part=(3, 3))
    with pytest.raises(ValueError, match="ends behind a row of 2 tokens"):
        run(RegularExpression("a*", TOKENS, part=(0, 3)), [MASK, MASK])
    with pytest.raises(ValueError, match="end token 7 is outside of the tokenizer's vocabulary of 7"):
        run(RegularExpression("a*", TOKENS, (7,)), [MASK])
    with pytest.raises(ValueError, match="tokenizer of the expression has 7 tokens, but the model's vocabulary only 6"):
        run(RegularExpression("a*", TOKENS), [MASK], lambda tokens: torch.zeros(*tokens.shape, 6))


def test_a_second_constraint_beside_it_is_refused() -> None:
    rule = RegularExpression("a*", TOKENS)
    with pytest.raises(ValueError, match="AllowLists rules tokens out without its knowledge"):
        UnmaskingSampler(adjustments=(AllowLists({0: (0,)}), rule))
    with pytest.raises(ValueError, match="RegularExpression rules tokens out without its knowledge"):
        UnmaskingSampler(adjustments=(rule, rule))
    UnmaskingSampler(adjustments=(Credit(), rule))


def test_it_is_built_from_yaml(tmp_path: object) -> None:
    folder = write_checkpoint(tmp_path)
    parser = ArgumentParser()
    parser.add_subclass_arguments(Sampler, "sampler")
    tokenizer = {"class_path": "llada.data.tokenizers.json_tokenizer.JsonTokenizer", "init_args": {"path": str(folder)}}
    rule = {
        "class_path": "llada.samplers.RegularExpression",
        "init_args": {"pattern": r"\d+", "tokenizer": tokenizer, "end": [2]},
    }
    sampler = {"class_path": "llada.samplers.UnmaskingSampler", "init_args": {"adjustments": [rule]}}
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
    built = instantiate(parser.parse_object({"sampler": sampler})).sampler
    (made,) = built.adjustments
    assert isinstance(made, RegularExpression)
    assert (made.pattern, made.end) == (r"\d+", (2,))
    digits = {token for token in range(made.tokenizer.vocab_size) if made.tokenizer.decode([token]).isdigit()}
    classes = made.automaton.classes
    assert {int(token) for token in (classes == classes[min(digits)]).nonzero()} == digits


def test_drawing_again_changes_nothing_that_was_passed() -> None:
    """The step keeps the logits that it was made with, also where a token is drawn again."""
    random, rule = RowRandom.from_seed(0, 1), RegularExpression("ab|ba", Words("a", "b", ""))
    logits = torch.tensor([[[0.0, 9.0, -torch.inf], [1.0, 8.0, -torch.inf]]])  # alone, both would be b
    state = step_of(torch.tensor([[0, 1]]), MaskingProcess(2), random=random)
    state = Proposal()(logits, state, random=random)
    before = state.logits.clone()
    after = agree(state, state.valid, 2, (rule.start(state),), Proposal(), random)
    assert after.drawn.tolist() == [[1, 0]]
    assert torch.equal(state.logits, before)
    assert not torch.equal(after.logits, before)
