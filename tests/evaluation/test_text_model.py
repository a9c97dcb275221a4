"""Texts in, likelihoods and texts out: the library's own numbers, whatever the batch."""

from dataclasses import replace

import pytest
import torch

from llada.data import Tokenizer
from llada.evaluation import Pair, Question, TextModel, next_token_greedy_match
from llada.metrics import NextTokenLikelihood, greedy_match
from llada.samplers import NextToken
from tests.evaluation.conftest import ESTIMATOR
from tests.tiny_checkpoint import BOS, EOS

TEXTS = [("The boat was", " red"), ("The boat was", " wide, and the river"), ("His mother called him", " home")]


def test_pairs_are_split_as_the_harness_splits_them(diffusion: TextModel, tokenizer: Tokenizer) -> None:
    pair = diffusion.encode_pair("The boat was ", "red")
    assert pair.context == [BOS, *tokenizer.encode("The boat was")]
    assert pair.continuation == tokenizer.encode("The boat was red")[len(pair.context) - 1 :]
    assert tokenizer.decode([*pair.context, *pair.continuation]) == "The boat was red"
    assert replace(diffusion, bos=False).encode_pair("The boat was", " red").context == pair.context[1:]
    with pytest.raises(ValueError, match="has no token of its own"):
        diffusion.encode_pair("The boat was", "")


def test_only_a_next_token_model_needs_something_in_front(diffusion: TextModel, twin: TextModel) -> None:
    assert replace(diffusion, bos=False).encode_pair("", "red").context == []
    assert replace(twin, bos=False).encode_pair("", "red").context == [BOS]


def test_likelihoods_are_those_of_the_metrics(diffusion: TextModel, twin: TextModel) -> None:
    for text_model, estimator in ((diffusion, ESTIMATOR), (twin, NextTokenLikelihood())):
        model = text_model.model
        pairs = [text_model.encode_pair(*text) for text in TEXTS]
        values = text_model.log_likelihoods(pairs, [3, 3, 4])
        wanted = estimator(
            model.backbone,
            model.process,
            [pair.context for pair in pairs],
            [pair.continuation for pair in pairs],
            seed=torch.tensor([3, 3, 4]),
        )
        assert [value for value, _ in values] == wanted.log_likelihood.tolist()
        alone = [text_model.log_likelihoods([pair], [seed])[0] for pair, seed in zip(pairs, [3, 3, 4], strict=True)]
        assert [value for value, _ in alone] == pytest.approx([value for value, _ in values], rel=1e-5)


def test_greedy_says_whether_decoding_gives_the_answer(text_model: TextModel) -> None:
    ids = text_model.encode("The boat was")
    question = Question(ids, (), 5, 0)
    model = text_model.model
    made = torch.tensor([[*ids, *[model.process.mask_token_id] * 5]])
    sampler = (
        NextToken()
        if text_model.sampler is None
        else replace(text_model.sampler, amount=replace(text_model.sampler.amount, steps=5))
    )
    written = model.generate(made, sampler=sampler).tokens[0, len(ids) :].tolist()
    other = [*written[:-1], (written[-1] + 1) % 200 + 20]
    pairs = [Pair(ids, written), Pair(ids, other)]
    assert [greedy for _, greedy in text_model.log_likelihoods(pairs, [0, 0])] == [True, False]
    assert question.until == ()


def test_one_pass_says_what_step_by_step_decoding_does(twin: TextModel) -> None:
    model, ids = twin.model, twin.encode("The river")
    written = model.generate(torch.tensor([[*ids, *[model.process.mask_token_id] * 6]])).tokens[0, len(ids) :].tolist()
    answers = [written, *([*written[:k], (written[k] + 1) % 200 + 20, *written[k + 1 :]] for k in range(6))]
    found = next_token_greedy_match(model.backbone, model.process, [ids] * 7, answers, rows_per_call=3)
    assert found.tolist() == [True, *[False] * 6]


def test_greedy_of_a_diffusion_model_is_the_metric(diffusion: TextModel) -> None:
    pairs = [diffusion.encode_pair(*text) for text in TEXTS]
    model = diffusion.model
    wanted = greedy_match(
        model.backbone, model.process, [pair.context for pair in pairs], [pair.continuation for pair in pairs]
    )
    assert [greedy for _, greedy in diffusion.log_likelihoods(pairs, [0, 0, 0])] == wanted.tolist()
    unchecked = replace(diffusion, check_greedy=False).log_likelihoods(pairs, [0, 0, 0])
    assert not any(greedy for _, greedy in unchecked)


def test_windows_score_every_token_once_with_all_the_context_there_is_room_for(text_model: TextModel) -> None:
    text = "The boat was red, and the river was wide. " * 8
    ids = text_model.tokenizer.encode(text)
    windows = text_model.windows(text)
    assert [token for window in windows for token in window.continuation] == ids
    assert windows[0].context == [BOS]
    whole = [BOS, *ids]
    done = 1
    for window in windows:
        assert whole[done - len(window.context) : done] == window.context
        done += len(window.continuation)
        assert len(window.context) + len(window.continuation) == min(done, 40)
    assert len(windows) == -(-len(ids) // 39) > 2
    assert text_model.windows("") == []


def test_a_twins_windows_add_up_to_the_likelihood_of_the_text(twin: TextModel) -> None:
    text = "The boat was red."
    (window,) = twin.windows(text)
    value = twin.log_likelihoods([window], [0])[0][0]
    logits = twin.model(torch.tensor([[BOS, *window.continuation]])).detach().double().log_softmax(-1)
    steps = [float(logits[0, i + 1, token]) for i, token in enumerate(window.continuation)]
    assert value == pytest.approx(sum(steps), rel=1e-5)


def answers(text_model: TextModel, questions: list[Question]) -> list[str]:
    return [text for _, text in sorted(text_model.generate(questions))]


def test_answers_end_before_what_ends_them_and_depend_on_no_neighbour(text_model: TextModel) -> None:
    prompts = ["The boat was", "His mother called him home; the boy", "The", "The river"]
    free = [Question(text_model.encode(prompt), (), 12, seed) for seed, prompt in enumerate(prompts)]
    whole = answers(text_model, free)
    assert all(whole)
    ends = [(text[4:6], text[7:]) for text in whole]
    cut = answers(text_model, [question._replace(until=end) for question, end in zip(free, ends, strict=True)])
    for full, end, text in zip(whole, ends, cut, strict=True):
        assert full.startswith(text)
        assert not any(stop in text for stop in end)
        assert any(full[len(text) :].startswith(stop) for stop in end)
        assert len(text) <= 4
    one_by_one = [answers(replace(text_model, rows_per_call=1), [question])[0] for question in free]
    assert one_by_one == whole
    assert answers(replace(text_model, rows_per_call=3), free) == whole


def test_an_end_of_text_ends_an_answer(text_model: TextModel, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The boat was red")
    assert text_model._text([*ids[:2], EOS, *ids[2:]], ()) == tokenizer.decode(ids[:2])


def test_left_to_right_decoding_ends_with_its_last_answer(twin: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question(twin.encode("The boat was"), (), 30, 0)
    (whole,) = answers(twin, [question])
    steps = []
    iterate = type(twin.model).iterate

    def counted(*args, **kwargs):
        for step in iterate(*args, **kwargs):
            steps.append(step)
            yield step

    monkeypatch.setattr(type(twin.model), "iterate", counted)
    assert answers(twin, [question._replace(until=(whole[2:4],))]) == [whole[: whole.find(whole[2:4])]]
    assert len(steps) <= 16


def test_what_does_not_fit_is_refused_before_anything_is_run(text_model: TextModel) -> None:
    with pytest.raises(ValueError, match="41 tokens doesn't fit into the model's 40"):
        text_model.log_likelihoods([Pair([BOS] * 40, [30])], [0])
    with pytest.raises(ValueError, match="shorter answers"):
        list(text_model.generate([Question([BOS] * 30, (), 11, 0)]))
    with pytest.raises(ValueError, match="rows_per_call must be 1 or more; got 0"):
        replace(text_model, rows_per_call=0)
