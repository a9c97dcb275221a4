"""Packed conversations: nothing is lost, nothing sees another, and the loss is that of the rows they were."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llada.backbones import BidirectionalTransformer
from llada.data import (
    AnswerRows,
    ExcludedPadding,
    FirstFitDecreasing,
    InstructionDataModule,
    JsonLines,
    PackedAnswers,
    PromptAnswers,
    TokenFile,
    TokenFileWriter,
)
from llada.data.loader import training_loader
from llada.noise import UniformTimes
from llada.objectives import (
    NELBO,
    BoundWeight,
    ContextWeight,
    IndependentMasks,
    PerRow,
    PerScored,
    PerToken,
    UnitWeight,
)
from llada.objectives.design import level_per_datum
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.rows import segment_numbers
from tests.doubles import GivenDesign
from tests.helpers import lines_run

MASK = 4


def answers(path, lengths, tokenizer):
    """A file of prompts and answers with tokens from 5 on, all different in a row."""
    generator = np.random.default_rng(0)
    with TokenFileWriter(path, 500, "f") as writer:
        for prompt, answer in lengths:
            writer.add(generator.integers(5, 60, prompt))
            writer.add(generator.integers(5, 60, answer))
    return AnswerRows(TokenFile(path), ExcludedPadding(), tokenizer)


LENGTHS = [(2, 3), (1, 9), (4, 1), (3, 3), (0, 4), (5, 5), (1, 1), (2, 6)]


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    room=st.integers(12, 20),
    buffer=st.integers(1, 50),
)
def test_first_fit_decreasing(lengths, room, buffer):
    sizes = np.array(lengths)
    rows = FirstFitDecreasing(buffer)(sizes, room)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sizes[row].sum() <= room for row in rows)
    if buffer >= len(lengths):
        # A member had room in no row before its own.
        for later, row in enumerate(rows):
            assert all(sizes[earlier].sum() + sizes[row].min() > room for earlier in rows[:later])


def test_a_worked_example():
    assert FirstFitDecreasing()(np.array([3, 7, 5, 2, 6, 1]), 10) == [[1, 0], [4, 3, 5], [2]]
    assert FirstFitDecreasing(3)(np.array([3, 7, 5, 2, 6, 1]), 10) == [[1, 0], [2], [4, 3, 5]]
    with pytest.raises(ValueError, match="buffer must be 1 or more; got 0"):
        FirstFitDecreasing(0)


def test_rows_hold_every_conversation_once(tmp_path, tokenizer):
    alone = answers(tmp_path / "a.tokens", LENGTHS, tokenizer)
    packed = PackedAnswers(alone, 12, FirstFitDecreasing())
    assert len(packed) == 5
    assert packed.fill == pytest.approx(sum(map(sum, LENGTHS)) / 60)
    batch = packed.__getitems__(list(range(5)))
    seen = []
    for number, (tokens, maskable, segments, real) in enumerate(
        zip(*(batch[name] for name in ("tokens", "maskable", "segment_ids", "attention_mask")), strict=True)
    ):
        for place, index in enumerate(packed.members(number)):
            row, inside = alone.row(index), segments == place
            assert torch.equal(tokens[inside], row.tokens)
            assert maskable[inside].tolist() == [i >= row.answer_start for i in range(len(row.tokens))]
            assert real[inside].all()
            seen.append(index)
        rest = segments == len(packed.members(number))
        assert torch.equal(rest, ~real)
        assert not maskable[rest].any()
    assert sorted(seen) == list(range(8))
    one = packed[3]
    assert torch.equal(one["tokens"], batch["tokens"][3])


def test_a_filling_row_has_nothing_maskable(tmp_path, tokenizer):
    packed = PackedAnswers(answers(tmp_path / "a.tokens", LENGTHS, tokenizer), 12, FirstFitDecreasing())
    batch = packed.__getitems__([1, -1])
    assert batch["maskable"].any(1).tolist() == [True, False]
    full = PackedAnswers(answers(tmp_path / "b.tokens", [(2, 2), (1, 3)], tokenizer), 4, FirstFitDecreasing())
    assert set(full.__getitems__([0, 1])) == {"tokens", "maskable", "segment_ids"}  # nothing is left, nothing hidden


def test_what_is_too_long_is_refused(tmp_path, tokenizer):
    alone = answers(tmp_path / "a.tokens", LENGTHS, tokenizer)
    with pytest.raises(ValueError, match=r"a prompt with its answer has 10 tokens, more than max_length=9"):
        PackedAnswers(alone, 9, FirstFitDecreasing())


@pytest.mark.parametrize("normaliser", [PerRow(), PerToken(), PerScored()], ids=repr)
@pytest.mark.parametrize("weight", [BoundWeight(), UnitWeight(), ContextWeight(0.3)], ids=repr)
def test_loss_and_gradients_are_those_of_the_rows_alone(tmp_path, tokenizer, normaliser, weight):
    """The same masks and noise levels, in float64."""
    alone = answers(tmp_path / "a.tokens", LENGTHS, tokenizer)
    packed = PackedAnswers(alone, 12, FirstFitDecreasing())
    batch = packed.__getitems__([2, 0, 4, 1, 3])
    members = [index for row in (2, 0, 4, 1, 3) for index in packed.members(row)]
    apart = alone.__getitems__(members)
    torch.manual_seed(0)
    model = BidirectionalTransformer(64, width=16, num_layers=2, num_heads=2).double()
    process = MaskingProcess(MASK)
    t_apart = torch.linspace(0.2, 0.9, len(members), dtype=torch.float64)
    masked_apart = (torch.rand(apart["tokens"].shape) < 0.6) & apart["maskable"]
    # Both list the real tokens conversation by conversation.
    t = torch.ones(batch["tokens"].shape, dtype=torch.float64)
    t[batch["attention_mask"]] = t_apart[:, None].expand(apart["tokens"].shape)[apart["attention_mask"]]
    masked = torch.zeros_like(batch["maskable"])
    masked[batch["attention_mask"]] = masked_apart[apart["attention_mask"]]
    results = []
    for rows, t_of, where in (
        (apart, t_apart[:, None].expand(apart["tokens"].shape), masked_apart),
        (batch, t, masked),
    ):
        objective = NELBO(GivenDesign(t_of, where), weight, normaliser)
        output = objective(model, process, rows, random=RowRandom.from_seed(0, len(rows["tokens"])))
        gradients = torch.autograd.grad(output.loss, list(model.parameters()))
        results.append([output.loss, output.denominator, output.nelbo.sum(), output.num_tokens.sum(), *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_objective_gives_every_segment_a_noise_level_of_its_own(tmp_path, tokenizer):
    alone = answers(tmp_path / "a.tokens", LENGTHS, tokenizer)
    batch = PackedAnswers(alone, 12, FirstFitDecreasing()).__getitems__([0, 1, 2, 3, 4])
    numbers = segment_numbers(batch["segment_ids"])
    times, random = UniformTimes(), RowRandom.from_seed(3, 5)
    t = level_per_datum(times, random, numbers)
    assert torch.equal(t[:, 0], times(random))  # as rows that aren't packed have
    for row, of_row in zip(t, numbers, strict=True):
        levels = [row[of_row == number].unique() for number in range(int(of_row.max()) + 1)]
        assert [len(level) for level in levels] == [1] * len(levels)
        assert len(torch.cat(levels).unique()) == len(levels)
    assert torch.equal(level_per_datum(times, random.select(torch.tensor([2])), numbers[2:3])[0], t[2])


def test_the_objective_on_packed_rows(tmp_path, tokenizer):
    """Its expectation is that of the rows alone: 400 draws each, ten at once, and a difference within four standard
    errors."""
    alone = answers(tmp_path / "a.tokens", LENGTHS, tokenizer)
    packed = PackedAnswers(alone, 12, FirstFitDecreasing())
    batches = packed.__getitems__(list(range(5))), alone.__getitems__(list(range(8)))
    torch.manual_seed(0)
    model = BidirectionalTransformer(64, width=8, num_layers=1, num_heads=2).eval()
    objective = NELBO(IndependentMasks(UniformTimes(0.1)), BoundWeight(), PerRow())
    found = []
    for batch in batches:
        batch = {name: column.repeat(10, *[1] * (column.ndim - 1)) for name, column in batch.items()}
        with torch.no_grad():
            losses = torch.stack([
                objective(model, MaskingProcess(MASK), batch,
                          random=RowRandom.from_seed(1000 * seed, len(batch["tokens"]))).loss
                for seed in range(40)
            ])  # fmt: skip
        found.append((losses.mean(), losses.var() / len(losses)))
    (ours, error), (theirs, other) = found
    assert abs(ours - theirs) < 4 * (error + other).sqrt()  # false alarm: 1 in 16,000, and the seed is fixed


def test_a_loader_resumes_in_the_middle_of_an_epoch(tmp_path, tokenizer):
    def rows():
        return PackedAnswers(answers(tmp_path / "a.tokens", LENGTHS * 5, tokenizer), 12, FirstFitDecreasing(16))

    loader = training_loader(rows(), 2, 0, seed=7)
    batches, state = [], None
    for number, batch in enumerate(loader):
        batches.append(batch["tokens"])
        if number == 3:
            state = loader.state_dict()
    again = training_loader(rows(), 2, 0, seed=7)
    again.load_state_dict(state)
    rest = [batch["tokens"] for batch in again]
    assert len(rest) == len(batches) - 4 > 3
    for ours, theirs in zip(rest, batches[4:], strict=True):
        assert torch.equal(ours, theirs)


def test_the_data_module_packs(tokenizer, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "the boy", "answer": "red"}\n' * 20)
    source = PromptAnswers(JsonLines(str(tmp_path / "pairs.jsonl")))
    data = InstructionDataModule(
        source, tokenizer, max_length=40, batch_size=2, val_source=source, cache_folder=str(tmp_path / "cache"),
        packing=FirstFitDecreasing(),
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    length = len(data.rows("train").alone.row(0).tokens)
    assert len(data.rows("train")) == -(-20 // (40 // length))
    batch = next(iter(data.train_dataloader()))
    assert batch["tokens"].shape == (2, 40)
    assert "segment_ids" in batch
    canvas = next(iter(data.predict_dataloader()))
    assert canvas["tokens"].shape == (2, length)  # one prompt each
    assert "segment_ids" not in canvas


def test_a_gather_touches_no_token_in_python(tmp_path, tokenizer):
    lines = []
    for scale in (1, 10):  # the same packing at either length
        alone = answers(tmp_path / f"{scale}.tokens", [(10 * scale, 15 * scale)] * 200, tokenizer)
        packed = PackedAnswers(alone, 103 * scale, FirstFitDecreasing())
        lines.append((len(packed), lines_run(lambda packed=packed: packed.__getitems__(list(range(len(packed)))))))
    assert lines[0] == lines[1]
