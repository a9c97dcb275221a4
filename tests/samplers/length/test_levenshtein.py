"""Editing of lengths, against a plain version of the rule for one block, and by a model that knows the text."""

from typing import Any

import pytest
import torch
from torch import Tensor

from examples.compositions import MASK, PROCESS, network
from llada.process.levenshtein import EditTokens, edit_labels
from llada.samplers import (
    Blocks,
    DelayedCache,
    EditingSampler,
    ExactCache,
    LevenshteinSampler,
    Proposal,
    UnmaskingSampler,
    VicinityCache,
    WholeCanvas,
    canvas,
)

DELETE, INSERT = 21, 22
NAMES: dict[str, Any] = {"delete_token_id": DELETE, "insert_token_id": INSERT}
PROMPTS = [[1, 7, 3, 9], [5, 2, 8, 4, 6, 3, 1, 7]]
SIZE = 6


class Plain:
    """The rule for one block of one row, step by step."""

    def __init__(self, rule: LevenshteinSampler, size: int) -> None:
        self.rule, self.size = rule, size
        self.x, self.original = [MASK] * size, [True] * size
        self.edits, self.updates, self.last = 0, 0, False
        self.seen: set[tuple[int, ...]] = set()
        self.tried: dict[int, set[int]] = {}

    def chosen(self, p: list[float], said: list[int]) -> list[int]:
        """The positions that are written."""
        rule, masks = self.rule, [i for i in range(self.size) if self.x[i] == MASK]
        first = [i for i in masks if self.original[i]]
        self.updates, self.edits = self.updates + 1, self.edits + (not first)
        self.last = self.updates > self.size + rule.max_edits or (not first and self.edits >= rule.max_edits)
        need = 1 + len(masks) - len(first)
        taken = [i for i in masks if p[i] > rule.threshold]
        if len(taken) < need:
            taken = sorted(masks, key=lambda i: -p[i])[:need]
        if rule.max_edits == 0 and set(first) <= set(taken):
            self.last = True
        if not first or self.last:
            taken = masks
        others = [i for i in range(self.size) if self.x[i] != MASK and p[i] > rule.edit_threshold]
        return sorted([*taken, *(i for i in others if said[i] != self.x[i])])

    def reworded(self, logits: Tensor, p: list[float], said: list[int], written: list[int]) -> list[int]:
        """What is said in the last step, and where the block has been seen before."""
        if self.last:
            text = logits.clone()
            text[:, [DELETE, INSERT]] = -torch.inf
            return [int(text[i].argmax()) if said[i] in (DELETE, INSERT) else said[i] for i in range(self.size)]
        changing = [i for i in written if said[i] != self.x[i]]
        if tuple(self.x) in self.seen and changing:
            at = min(changing, key=lambda i: p[i])
            logits[at, list(self.tried.get(at, ()))] = -torch.inf
            said[at] = int(logits[at].argmax())
        return said

    def step(self, logits: Tensor) -> bool:
        """Whether the block goes on."""
        p, said = (part.tolist() for part in logits.softmax(-1).max(-1))
        written = self.chosen(p, said)
        if not written:
            return False
        said = self.reworded(logits, p, said, written)
        self.seen.add(tuple(self.x))
        new: list[tuple[int, bool]] = []
        for i in range(self.size):
            word = said[i] if i in written else self.x[i]
            if i in written:
                self.tried.setdefault(i, set()).add(word)
            if word == INSERT:
                new += [(MASK, False), (self.x[i], self.original[i])]
            elif word != DELETE:
                new.append((word, self.original[i]))
        new = (new + [(MASK, False)] * self.size)[: self.size]
        self.x, self.original = [token for token, _ in new], [old for _, old in new]
        return not self.last


def plain(model: Any, prompt: list[int], size: int, rule: LevenshteinSampler) -> tuple[list[int], int]:
    """One row of block-causal decoding; tokens and calls."""
    row, calls = list(prompt), 0
    for _ in range(2):
        block, goes_on = Plain(rule, size), True
        while goes_on:
            logits = model(torch.tensor([[*row, *block.x]]))[0, len(row) :].clone()
            logits[:, MASK] = -torch.inf
            goes_on, calls = block.step(logits), calls + 1
        row += block.x
    return row, calls


@pytest.mark.parametrize(
    "rule",
    [
        LevenshteinSampler(0.5, 0.0, 4, window=Blocks(4, from_start=True), **NAMES),
        LevenshteinSampler(0.1, 0.2, 0, window=Blocks(4, from_start=True), **NAMES),
        LevenshteinSampler(0.05, 0.1, 3, window=Blocks(4, from_start=True), cache=ExactCache(), **NAMES),
    ],
    ids=["published", "no edits", "exact cache"],
)
@pytest.mark.parametrize("lean", [0.0, 1.5])
def test_a_batch_is_the_plain_rule_row_by_row(rule: LevenshteinSampler, lean: float) -> None:
    model = network((("block_length", 4),))
    bias = torch.zeros(24, 1).double()
    bias[[DELETE, INSERT]] = lean
    tokens, mask, _ = canvas(PROMPTS, 8, mask_token_id=MASK, pad_token_id=0)
    asked: list[bool] = []

    def leaning(hidden: Tensor) -> Tensor:
        logits = inner(hidden)
        asked.append(bool(((logits + bias[:, 0]).argmax(-1)[..., None] == torch.tensor([DELETE, INSERT])).any()))
        return logits + bias[:, 0]

    inner = model.head
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model._modules, "head", Head(leaning))
        sample = rule(model, tokens, PROCESS, attention_mask=mask)
        for row, prompt in enumerate(PROMPTS):
            expected, calls = plain(model, prompt, 4, rule)
            assert sample.tokens[row][mask[row]].tolist() == expected
            assert sample.calls[row] == calls
    assert any(asked)
    assert not torch.isin(sample.tokens, torch.tensor([DELETE, INSERT, MASK])).any()


def test_a_row_warms_up_by_its_own_calls() -> None:
    """The second row has nothing to write in the first block, whose calls are the other row's."""
    sampler = LevenshteinSampler(0.2, 0.3, 6, window=Blocks(4), cache=VicinityCache(None, 6, 0), **NAMES)
    tokens = torch.randint(1, 20, (2, 16), generator=torch.Generator().manual_seed(1))
    tokens[0, 4:] = tokens[1, 8:] = MASK
    sample = sampler(network(()), tokens, PROCESS)
    assert sample.calls.tolist() == [21, 14]
    for row in range(2):
        assert torch.equal(sampler(network(()), tokens[row : row + 1], PROCESS).tokens[0], sample.tokens[row])


class Head(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, hidden: Tensor) -> Tensor:
        return self.function(hidden)


TEXT = torch.tensor([10, 11, 12, 13, 14, 15])


class Editor(torch.nn.Module):
    """Writes a text with mistakes in it at first, and then says of every token how to come to the right one."""

    def __init__(self, wrong: list[int]) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, tokens: Tensor) -> Tensor:
        wanted = tokens.clone()
        draft = tokens[:, 2:]
        labels = edit_labels(
            draft, TEXT.expand_as(draft), torch.ones_like(draft).bool(), EditTokens(MASK, DELETE, INSERT)
        )
        wanted[:, 2:] = torch.where((draft == MASK).all(1, keepdim=True), torch.tensor(self.wrong), labels)
        return 9.0 * torch.nn.functional.one_hot(wanted, 24).double()


@pytest.mark.parametrize(
    "wrong", [[10, 11, 12, 13, 14, 15], [11, 12, 13, 14, 15, 15], [10, 10, 10, 10, 11, 12], [15, 14, 13, 12, 11, 10]]
)
def test_a_draft_is_edited_until_it_is_the_text(wrong: list[int]) -> None:
    tokens = torch.tensor([[1, 2, *[MASK] * SIZE]])
    sampler = LevenshteinSampler(window=Blocks(SIZE), **NAMES)
    sample = sampler(Editor(wrong), tokens, PROCESS)
    assert torch.equal(sample.tokens[0, 2:], TEXT)
    assert sample.calls <= 1 + SIZE + 1  # the draft, the rounds, and one that wants nothing
    for step in sampler.iterate(Editor(wrong), tokens, PROCESS):
        assert torch.equal(step.open, step.tokens == MASK)
        assert not torch.isin(step.tokens, torch.tensor([DELETE, INSERT])).any()


def test_any_draft_becomes_the_text_in_as_many_rounds_as_it_has_tokens() -> None:
    """Of tokens of the text, of others and of masks, by a model that says how; the block of each row elsewhere."""
    generator = torch.Generator().manual_seed(4)
    drafts = torch.tensor([*range(9, 17), MASK])[torch.randint(9, (60, SIZE), generator=generator)]
    drafts[0], drafts[1], drafts[2] = TEXT, MASK, TEXT.flip(0)
    tokens = torch.cat((torch.tensor([[1, 2]]).expand(60, -1), drafts), 1)
    given = torch.tensor([True, True, *[False] * SIZE]).expand(60, -1)
    editor = Editor(TEXT.tolist())
    sampler = LevenshteinSampler(window=WholeCanvas(), max_edits=2, **NAMES).from_draft()
    assert sampler.draft
    sample = sampler(editor, tokens, PROCESS, given=given)
    assert torch.equal(sample.tokens[:, 2:], TEXT.expand(60, -1))
    assert sample.calls.max() <= SIZE + 1  # the rounds, and a call that wants nothing
    assert sample.calls[0] == 1
    assert sample.generated.eq(SIZE).all()
    for row in (0, 1, 7):
        alone = sampler(editor, tokens[row : row + 1], PROCESS, given=given[:1])
        assert torch.equal(alone.tokens[0], sample.tokens[row])
        assert alone.calls[0] == sample.calls[row]
    masked = LevenshteinSampler(window=WholeCanvas(), **NAMES)  # which doesn't look at the draft
    begun = next(iter(masked.iterate(editor, tokens, PROCESS, given=given)))
    assert torch.equal(begun.tokens[3], begun.tokens[4])


def test_a_draft_of_several_blocks_is_edited_block_by_block() -> None:
    """Tokens are replaced, masks are written, and what is right stays, in rows of different prompts."""

    def knows(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return 9.0 * torch.nn.functional.one_hot(torch.full_like(tokens, 5), 24).double()

    prompts = [[1, 7, 3, 9], [2, 8]]
    for sampler in (LevenshteinSampler(window=Blocks(4), **NAMES), EditingSampler(window=Blocks(4))):
        tokens, mask, given = canvas(prompts, 8, mask_token_id=MASK, pad_token_id=0)
        tokens[:, -8:] = torch.tensor([5, 4, MASK, 5, 5, 5, 5, 5])
        sample = sampler.from_draft()(knows, tokens, PROCESS, given=given, attention_mask=mask)
        assert sample.tokens[:, -8:].eq(5).all()
        assert torch.equal(sample.tokens[:, :4], tokens[:, :4])
        assert sample.calls.tolist() == [3, 3]  # two for the first block, one that finds nothing in the second


def test_what_is_no_draft_is_refused() -> None:
    with pytest.raises(ValueError, match="say by given which tokens stay"):
        EditingSampler().from_draft()(network(()), torch.tensor([[1, 2, MASK]]), PROCESS)
    with pytest.raises(ValueError, match="UnmaskingSampler writes into masks and edits no draft"):
        UnmaskingSampler().from_draft()


def test_what_cannot_be_edited_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ; got 3 for both"):
        LevenshteinSampler(delete_token_id=3, insert_token_id=3)
    with pytest.raises(ValueError, match=r"temperature 0, not 0\.5"):
        LevenshteinSampler(proposal=Proposal(0.5), **NAMES)
    with pytest.raises(ValueError, match="DelayedCache keeps the keys of written tokens"):
        LevenshteinSampler(cache=DelayedCache(), **NAMES)
    tokens = torch.tensor([[1, MASK, 5, MASK]])
    with pytest.raises(ValueError, match="must be in one piece"):
        LevenshteinSampler(window=Blocks(4), **NAMES)(network(()), tokens, PROCESS)
    with pytest.raises(ValueError, match="token 99 is outside of the model's vocabulary of 24"):
        LevenshteinSampler(window=Blocks(4), delete_token_id=3, insert_token_id=99)(
            network(()), torch.tensor([[1, MASK]]), PROCESS
        )
