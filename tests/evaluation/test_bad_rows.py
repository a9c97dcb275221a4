"""A row that doesn't fit, or can't be answered, never ends an evaluation: it is cut or left out, counted and named."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llada.evaluation import EvaluationModel, harness_model, run_tasks
from llada.samplers import AncestralSampler, NextToken, low_confidence

pytest.importorskip("lm_eval")
pytest.importorskip("datasets")
logging.getLogger("lm_eval").setLevel(logging.ERROR)

ANSWERS = """task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {options}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOICES = """task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GREEDY = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
CATS, LONG = {"q": "cats?", "a": "x"}, {"q": "The boat " * 60, "a": "x"}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(
        model: EvaluationModel,
        rows: list[dict],
        task: str = ANSWERS,
        options: Any = GREEDY,
        extra: str = "",
        **more: Any,
    ) -> dict[str, Any]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = task.format(file=tmp_path / "rows.jsonl", options=json.dumps(options)) + extra
        (tmp_path / "tiny.yaml").write_text(text)
        return run_tasks(model, ["tiny"], include_path=str(tmp_path), bootstrap_iters=0, **more)

    return run


def responses(found: dict[str, Any]) -> list[str]:
    return [sample["resps"][0][0] for sample in found["samples"]["tiny"]]


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {kind: entry["count"] for kind, entry in found["notes"].items()}


def test_a_begun_answer_runs_under_a_chat_template(diffusion: EvaluationModel, run: Run) -> None:
    found = run(diffusion, [{"q": "f", "a": "x"}], extra='gen_prefix: "Yes,"\n', apply_chat_template=True)
    (sample,) = found["samples"]["tiny"]
    assert sample["arguments"][0][0].endswith("Yes,")
    assert "exact_match,none" in found["results"]["tiny"]


def test_an_over_long_question_is_cut_from_the_left_and_counted(evaluated: EvaluationModel, run: Run) -> None:
    found = run(evaluated, [CATS, LONG, CATS])
    assert counts(found) == {"the question was cut from the left": 1}
    assert found["notes"]["the question was cut from the left"]["examples"] == ["tiny, document 1"]
    assert found["results"]["tiny"]["exact_match,none"] == 0.0
    with pytest.raises(ValueError, match=r"tiny, document 1: the question was cut from the left; leave out strict"):
        run(replace(evaluated, strict=True), [CATS, LONG, CATS])


def test_what_is_cut_is_the_question_s_end_behind_bos(diffusion: EvaluationModel) -> None:
    model = harness_model(diffusion)
    whole = diffusion.text.encode(LONG["q"])
    question = model._question(0, LONG["q"], {"max_gen_toks": 8})
    assert question.ids == [whole[0], *whole[-31:]]
    assert (len(question.ids), question.num_new_tokens) == (32, 8)


@pytest.mark.parametrize(("length", "wanted", "given"), [(5, 256, 35), (30, 256, 20), (30, 15, 15), (5, 35, 35)])
def test_an_answer_gets_the_room_there_is(diffusion: EvaluationModel, length: int, wanted: int, given: int) -> None:
    model = harness_model(diffusion)
    text = diffusion.text.tokenizer.decode(diffusion.text.tokenizer.encode(LONG["q"])[: length - 1])
    question = model._question(0, text, {"max_gen_toks": wanted})
    assert question.num_new_tokens == given
    assert len(question.ids) == min(length, 40 - given)
    assert any("fewer than the task's 256" in kind for kind in model.notes.report()) == (wanted == 256)


def test_a_length_of_one_s_own_must_fit(diffusion: EvaluationModel) -> None:
    with pytest.raises(ValueError, match="doesn't fit into the model's 40"):
        replace(diffusion, num_new_tokens=41)


def test_an_empty_ending_ends_nothing(evaluated: EvaluationModel) -> None:
    model = harness_model(evaluated)

    def answer(until: Any) -> str:
        (text,) = model.generate_until([SimpleNamespace(args=("cats?", {"until": until, "max_gen_toks": 8}))], True)
        return text

    assert answer([]) != ""
    assert {answer(until) for until in ([""], "", ["", "zzz"])} == {answer([])}


def test_an_empty_choice_scores_zero_and_is_named(evaluated: EvaluationModel, run: Run) -> None:
    rows = [{"q": "cats?", "choices": ["yes", "no"], "a": 0}, {"q": "dogs?", "choices": ["yes", ""], "a": 0}]
    found = run(evaluated, rows, CHOICES, extra='target_delimiter: ""\n')
    scores = [[value for ((value, _),) in sample["resps"]] for sample in found["samples"]["tiny"]]
    assert float(scores[1][1]) == 0.0
    assert all(float(value) < 0.0 for value in (*scores[0], scores[1][0]))
    assert counts(found) == {"the continuation is empty and scores 0": 1}


def test_over_long_contexts_and_continuations_are_scored(evaluated: EvaluationModel, run: Run) -> None:
    rows = [{"q": LONG["q"], "choices": ["yes", "no"], "a": 0}, {"q": "cats?", "choices": ["yes", LONG["q"]], "a": 0}]
    found = run(evaluated, rows, CHOICES)
    assert counts(found) == {
        "the context was cut from the left": 2,
        "the continuation is longer than a row and was scored in pieces": 1,
    }
    assert 0.0 <= found["results"]["tiny"]["acc,none"] <= 1.0


def test_one_row_that_fails_is_left_out(diffusion: EvaluationModel, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = diffusion.text.encode("bad")
    real = type(diffusion.text).canvas

    def canvas(self: Any, prompts: Any, *rest: Any) -> Any:
        if bad in list(prompts):
            raise ValueError("no room")
        return real(self, prompts, *rest)

    monkeypatch.setattr(type(diffusion.text), "canvas", canvas)
    found = run(diffusion, [CATS, {"q": "bad", "a": "x"}, {"q": "dogs?", "a": "y"}])
    assert [text == "" for text in responses(found)] == [False, True, False]
    assert found["notes"] == {"can't be scored or answered (no room)": {"count": 1, "examples": ["tiny, document 1"]}}
    rows = [SimpleNamespace(args=(text, {"max_gen_toks": 4})) for text in ("bad", "cats?")]
    for model, asked in ((diffusion, rows[:1]), (replace(diffusion, strict=True), rows)):
        with pytest.raises(ValueError, match="no room"):
            harness_model(model).generate_until(asked, True)


def test_a_pair_that_fails_is_left_out(diffusion: EvaluationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EvaluationModel.log_likelihoods

    def log_likelihoods(self: Any, pairs: Any, seeds: Any) -> Any:
        if any(pair.continuation == diffusion.text.tokenizer.encode(" bad") for pair in pairs):
            raise ValueError("no")
        return real(self, pairs, seeds)

    requests = [SimpleNamespace(args=("The", f" {word}")) for word in ("boat", "bad", "river")]
    whole = harness_model(diffusion).loglikelihood(requests, True)
    monkeypatch.setattr(EvaluationModel, "log_likelihoods", log_likelihoods)
    model = harness_model(diffusion)
    found = model.loglikelihood(requests, True)
    assert found[1] == (float("-inf"), False)
    assert [found[0][0], found[2][0]] == pytest.approx([whole[0][0], whole[2][0]], rel=1e-5)
    assert model.notes.report()["can't be scored or answered (no)"]["examples"] == ["request 1"]


def test_draws_that_the_task_asks_for_are_obeyed(diffusion: EvaluationModel, run: Run) -> None:
    asked = "do_sample=True,temperature=0.6,top_p=0.95"
    found = run(diffusion, [CATS], options={**GREEDY, "max_gen_toks": 12}, gen_kwargs=asked)
    given = replace(diffusion, text=replace(diffusion.text, sampler=low_confidence(12, temperature=0.6, top_p=0.95)))
    model = harness_model(given)
    (same,) = model.generate_until([SimpleNamespace(args=("cats?", {"until": ["\n"], "max_gen_toks": 12}))], True)
    assert responses(found) == [same]
    assert counts(found) == {"the task's temperature=0.6, top_p=0.95 took the place of the sampler's own": 1}
    greedy = run(given, [CATS])
    assert counts(greedy) == {"the task asks for greedy decoding, the sampler draws at temperature 0.6": 1}


def sampler_for(model: EvaluationModel, sampler: Any, options: dict[str, Any]) -> Any:
    return (
        harness_model(replace(model, text=replace(model.text, sampler=sampler)))._question(0, "cats", options).sampler
    )


def test_other_samplers_obey_or_refuse(diffusion: EvaluationModel, twin: EvaluationModel) -> None:
    options = {"do_sample": True, "temperature": 0.5, "top_k": 3, "max_gen_toks": 4}
    assert sampler_for(twin, NextToken(), options) == NextToken(temperature=0.5, top_k=3)
    assert sampler_for(diffusion, AncestralSampler(8), options).temperature == 0.5
    assert sampler_for(twin, NextToken(), {"do_sample": False, "temperature": 0.5, "max_gen_toks": 4}) is None
    assert sampler_for(twin, NextToken(), {"temperature": 0.0, "max_gen_toks": 4}) is None
    assert sampler_for(twin, NextToken(), {"do_sample": True, "max_gen_toks": 4}) == NextToken(temperature=1.0)


def test_an_option_that_no_sampler_has_is_named(diffusion: EvaluationModel) -> None:
    model = harness_model(diffusion)
    model._question(0, "cats", {"max_gen_toks": 4, "repetition_penalty": 1.2, "num_beams": 1, "use_cache": None})
    assert list(model.notes.report()) == ["no sampler has the task's option repetition_penalty=1.2, which was left out"]
    with pytest.raises(ValueError, match=r"request 0: no sampler has the task's option repetition_penalty=1\.2"):
        harness_model(replace(diffusion, strict=True))._question(0, "cats", {"repetition_penalty": 1.2})


@pytest.mark.parametrize("rows", ["auto", "auto:4", "3", 2])
def test_the_number_of_rows_may_be_auto(rows: Any, tmp_path: Path) -> None:
    from llada.evaluation.harness import model_class
    from tests.tiny_checkpoint import write_checkpoint

    folder = write_checkpoint(tmp_path / "checkpoint")
    made = model_class().create_from_arg_obj({"checkpoint": str(folder)}, {"batch_size": rows, "device": "cpu"})
    assert made.model.rows_per_call == (8 if str(rows).startswith("auto") else int(rows))
