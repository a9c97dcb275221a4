"""Texts in, likelihoods and texts out: the library's own numbers, whatever the batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llada.data import Message, Tokenizer, llada_template
from llada.evaluation import EvaluationModel, Pair, Question
from llada.evaluation.evaluation_model import CHECK_EVERY
from llada.metrics import NextTokenLikelihood, greedy_match, next_token_greedy_match
from llada.module import DiffusionLM
from llada.samplers import NextToken, low_confidence, remdm_cap
from llada.text import TextModel
from tests.evaluation.conftest import ESTIMATOR
from tests.tiny_checkpoint import BOS, EOS


def without_bos(model: EvaluationModel) -> EvaluationModel:
    return replace(model, text=replace(model.text, bos=False))


TEXTS = [("The boat was", " red"), ("The boat was", " wide, and the river"), ("His mother called him", " home")]


def test_pairs_are_split_as_the_harness_splits_them(diffusion: EvaluationModel, tokenizer: Tokenizer) -> None:
    pair = diffusion.encode_pair("The boat was ", "red")
    assert pair.context == [BOS, *tokenizer.encode("The boat was")]
    assert pair.continuation == tokenizer.encode("The boat was red")[len(pair.context) - 1 :]
    assert tokenizer.decode([*pair.context, *pair.continuation]) == "The boat was red"
    assert without_bos(diffusion).encode_pair("The boat was", " red").context == pair.context[1:]
    with pytest.raises(ValueError, match="has no token of its own"):
        diffusion.encode_pair("The boat was", "")


def test_an_answer_is_scored_with_its_end(
    evaluated: EvaluationModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_end = replace(evaluated, score_end=True, check_greedy=False)
    for text in TEXTS:
        plain, ended = evaluated.encode_pair(*text), with_end.encode_pair(*text)
        assert ended == Pair(plain.context, [*plain.continuation, EOS])
        asked = [Pair(plain.context, plain.continuation), Pair([*plain.context, *plain.continuation], [EOS]), ended]
        answer, end, both = (value for value, _ in with_end.log_likelihoods(asked, [0, 0, 0]))
        if evaluated.text.model.needs_prompt:  # exact, so by the chain rule
            assert both == pytest.approx(answer + end, rel=1e-6)
    template = replace(with_end, text=replace(with_end.text, template=llada_template()))
    ids = template.text.encode_messages([Message("user", "The boat?")])
    chat = template.text.chat_template.answer(Message("assistant", " red"), tokenizer)
    said = template.encode_pair("", " red", ids)
    assert said.context == ids
    assert said.continuation == [*tokenizer.encode(" red"), *chat[-2:]]  # end of turn, EOS
    assert set(chat[-2:]) == {tokenizer.special_id("eot"), EOS}
    monkeypatch.setattr(type(tokenizer), "eos_token_id", None)
    with pytest.raises(ValueError, match="answers have no end: the tokenizer has no EOS"):
        replace(evaluated, score_end=True)


def test_only_a_next_token_model_needs_something_in_front(diffusion: EvaluationModel, twin: EvaluationModel) -> None:
    assert without_bos(diffusion).encode_pair("", "red").context == []
    assert without_bos(twin).encode_pair("", "red").context == [BOS]


def test_likelihoods_are_those_of_the_metrics(diffusion: EvaluationModel, twin: EvaluationModel) -> None:
    for evaluated, estimator in ((diffusion, ESTIMATOR), (twin, NextTokenLikelihood())):
        model = evaluated.text.model
        pairs = [evaluated.encode_pair(*text) for text in TEXTS]
        values = evaluated.log_likelihoods(pairs, [3, 3, 4])
        wanted = estimator(
            model.backbone,
            model.process,
            [pair.context for pair in pairs],
            [pair.continuation for pair in pairs],
            seed=torch.tensor([3, 3, 4]),
        )
        assert [value for value, _ in values] == wanted.log_likelihood.tolist()
        alone = [evaluated.log_likelihoods([pair], [seed])[0] for pair, seed in zip(pairs, [3, 3, 4], strict=True)]
        assert [value for value, _ in alone] == pytest.approx([value for value, _ in values], rel=1e-5)


def test_greedy_says_whether_decoding_gives_the_answer(evaluated: EvaluationModel) -> None:
    ids = evaluated.text.encode("The boat was")
    question = Question(ids, (), 5, 0)
    model = evaluated.text.model
    made = torch.tensor([[*ids, *[model.process.mask_token_id] * 5]])
    sampler = (
        NextToken()
        if evaluated.text.sampler is None
        else replace(evaluated.text.sampler, amount=replace(evaluated.text.sampler.amount, steps=5))
    )
    written = model.generate(made, sampler=sampler).tokens[0, len(ids) :].tolist()
    other = [*written[:-1], (written[-1] + 1) % 200 + 20]
    pairs = [Pair(ids, written), Pair(ids, other)]
    assert [greedy for _, greedy in evaluated.log_likelihoods(pairs, [0, 0])] == [True, False]
    assert question.until == ()


def test_one_pass_says_what_step_by_step_decoding_does(twin: EvaluationModel) -> None:
    model, ids = twin.text.model, twin.text.encode("The river")
    written = model.generate(torch.tensor([[*ids, *[model.process.mask_token_id] * 6]])).tokens[0, len(ids) :].tolist()
    answers = [written, *([*written[:k], (written[k] + 1) % 200 + 20, *written[k + 1 :]] for k in range(6))]
    found = next_token_greedy_match(model.backbone, model.process, [ids] * 7, answers, rows_per_call=3)
    assert found.tolist() == [True, *[False] * 6]


def test_greedy_of_a_diffusion_model_is_the_metric(diffusion: EvaluationModel) -> None:
    pairs = [diffusion.encode_pair(*text) for text in TEXTS]
    model = diffusion.text.model
    wanted = greedy_match(
        model.backbone, model.process, [pair.context for pair in pairs], [pair.continuation for pair in pairs]
    )
    assert [greedy for _, greedy in diffusion.log_likelihoods(pairs, [0, 0, 0])] == wanted.tolist()
    unchecked = replace(diffusion, check_greedy=False).log_likelihoods(pairs, [0, 0, 0])
    assert not any(greedy for _, greedy in unchecked)


def test_windows_score_every_token_once_with_all_the_context_there_is_room_for(evaluated: EvaluationModel) -> None:
    text = "The boat was red, and the river was wide. " * 8
    ids = evaluated.text.tokenizer.encode(text)
    windows = evaluated.windows(text)
    assert [token for window in windows for token in window.continuation] == ids
    assert windows[0].context == [BOS]
    whole = [BOS, *ids]
    done = 1
    for window in windows:
        assert whole[done - len(window.context) : done] == window.context
        done += len(window.continuation)
        assert len(window.context) + len(window.continuation) == min(done, 40)
    assert len(windows) == -(-len(ids) // 39) > 2
    assert evaluated.windows("") == []


def test_a_twins_windows_add_up_to_the_likelihood_of_the_text(twin: EvaluationModel) -> None:
    text = "The boat was red."
    (window,) = twin.windows(text)
    value = twin.log_likelihoods([window], [0])[0][0]
    logits = twin.text.model(torch.tensor([[BOS, *window.continuation]])).detach().double().log_softmax(-1)
    steps = [float(logits[0, i + 1, token]) for i, token in enumerate(window.continuation)]
    assert value == pytest.approx(sum(steps), rel=1e-5)


def answers(evaluated: EvaluationModel, questions: list[Question]) -> list[str]:
    return [text for _, text in sorted(evaluated.generate(questions))]


def test_answers_end_before_what_ends_them_and_depend_on_no_neighbour(evaluated: EvaluationModel) -> None:
    prompts = ["The boat was", "His mother called him home; the boy", "The", "The river"]
    free = [Question(evaluated.text.encode(prompt), (), 12, seed) for seed, prompt in enumerate(prompts)]
    whole = answers(evaluated, free)
    assert all(whole)
    ends = [(text[4:6], text[7:]) for text in whole]
    cut = answers(evaluated, [question._replace(until=end) for question, end in zip(free, ends, strict=True)])
    for full, end, text in zip(whole, ends, cut, strict=True):
        assert full.startswith(text)
        assert not any(stop in text for stop in end)
        assert any(full[len(text) :].startswith(stop) for stop in end)
        assert len(text) <= 4
    one_by_one = [answers(replace(evaluated, rows_per_call=1), [question])[0] for question in free]
    assert one_by_one == whole
    assert answers(replace(evaluated, rows_per_call=3), free) == whole


def test_an_end_of_text_ends_an_answer(evaluated: EvaluationModel, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The boat was red")
    assert evaluated.text.decode([*ids[:2], EOS, *ids[2:]]) == tokenizer.decode(ids[:2])


def test_left_to_right_decoding_ends_with_its_last_answer(
    twin: EvaluationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question(twin.text.encode("The boat was"), (), 30, 0)
    (whole,) = answers(twin, [question])
    steps = []
    iterate = type(twin.text.model).iterate

    def counted(*args, **kwargs):
        for step in iterate(*args, **kwargs):
            steps.append(step)
            yield step

    monkeypatch.setattr(type(twin.text.model), "iterate", counted)
    assert answers(twin, [question._replace(until=(whole[2:4],))]) == [whole[: whole.find(whole[2:4])]]
    assert len(steps) <= 16


def test_what_does_not_fit_is_refused_before_anything_is_run(evaluated: EvaluationModel) -> None:
    with pytest.raises(ValueError, match="41 tokens doesn't fit into the model's 40"):
        evaluated.log_likelihoods([Pair([BOS] * 40, [30])], [0])
    with pytest.raises(ValueError, match="shorter answers"):
        list(evaluated.generate([Question([BOS] * 30, (), 11, 0)]))
    with pytest.raises(ValueError, match="rows_per_call must be 1 or more; got 0"):
        replace(evaluated, rows_per_call=0)


def test_questions_of_different_lengths_are_answered_as_if_alone(evaluated: EvaluationModel) -> None:
    ids = evaluated.text.encode("The boat was")
    questions = [Question(ids, (), size, 3) for size in (12, 3, 12, 7, 3)]
    alone = [answers(evaluated, [question])[0] for question in questions]
    assert answers(evaluated, questions) == alone
    assert alone[0] == alone[2]
    tokens = [len(evaluated.text.tokenizer.encode(text)) for text in alone]
    assert tokens[1] < tokens[3] < tokens[0]


def test_the_seed_is_that_of_the_draws_and_of_the_masks(diffusion: EvaluationModel) -> None:
    text = replace(diffusion.text, sampler=low_confidence(12, temperature=1.0))
    question = Question(text.encode("The boat was"), (), 12, 0)
    one, again, other = (answers(replace(diffusion, text=text, seed=seed), [question]) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert answers(replace(diffusion, text=text, seed=0), [question._replace(seed=2)]) == other
    pair = diffusion.encode_pair("The boat was", " wide, and the river was red")
    scores = [replace(diffusion, check_greedy=False, seed=seed).log_likelihoods([pair], [0]) for seed in (1, 1, 2)]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_decoding_in_blocks_ends_with_its_last_answer_too(diffusion: EvaluationModel) -> None:
    steps = []

    class Writes(torch.nn.Module):
        """Writes "red", the end of a text, and then "red" without end."""

        def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            steps.append(tokens)
            row = [red, EOS, *[red] * (tokens.shape[1] - 3)]
            return 9.0 * torch.nn.functional.one_hot(torch.tensor([[BOS, *row]]), words.vocab_size).float()

    words = diffusion.text.tokenizer
    red = words.encode("red")[0]
    model = DiffusionLM(Writes(), diffusion.text.model.process)
    for sampler, early in ((low_confidence(32, block_length=4), True), (remdm_cap(steps=32), False)):
        steps.clear()
        text = TextModel(model, words, sampler=sampler)
        assert answers(EvaluationModel(text), [Question([BOS], (), 32, 0)]) == [words.decode([red])]
        assert (len(steps) == CHECK_EVERY) is early
