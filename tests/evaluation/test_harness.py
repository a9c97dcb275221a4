"""The harness's own functions run on our models, on tasks that lie beside this file, and give our own numbers."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llada.evaluation import EvaluationModel, harness_model, register, run_tasks

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def run(evaluated: EvaluationModel, task: str, tasks: Path, **options: Any) -> dict[str, Any]:
    return run_tasks(evaluated, [task], include_path=str(tasks), bootstrap_iters=0, **options)


def requests(*arguments: tuple[Any, ...]) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=entry) for entry in arguments]


def test_multiple_choice(evaluated: EvaluationModel, tasks: Path) -> None:
    found = run(evaluated, "boat_choice", tasks)
    right = 0
    for number, sample in enumerate(found["samples"]["boat_choice"]):
        document = sample["doc"]
        pairs = [evaluated.encode_pair(document["question"], f" {choice}") for choice in document["choices"]]
        values = [value for value, _ in evaluated.log_likelihoods(pairs, [number] * len(pairs))]
        assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(values, rel=1e-5)
        right += max(range(len(values)), key=values.__getitem__) == document["answer"]
    assert found["results"]["boat_choice"]["acc,none"] == pytest.approx(right / 3)


def test_rolling(evaluated: EvaluationModel, tasks: Path) -> None:
    scores = run(evaluated, "boat_text", tasks)["results"]["boat_text"]
    texts = ["The boat was red, and the river was wide.", "The boy ran up the hill."]
    total = 0.0
    for number, text in enumerate(texts):
        windows = evaluated.windows(text)
        total += sum(value for value, _ in evaluated.log_likelihoods(windows, [number] * len(windows)))
    size = sum(len(text.encode()) for text in texts)
    assert scores["bits_per_byte,none"] == pytest.approx(-total / size / math.log(2.0), rel=1e-5)


def test_generation_stops_where_the_task_says(evaluated: EvaluationModel, tasks: Path) -> None:
    found = run(evaluated, "boat_answer", tasks)
    for sample in found["samples"]["boat_answer"]:
        text = sample["resps"][0][0]
        assert "e" not in text
        model = harness_model(evaluated)
        (whole,) = model.generate_until(requests((sample["doc"]["question"], {"until": [], "max_gen_toks": 12})), True)
        assert whole.startswith(text)
        assert text == whole or whole[len(text)] == "e"


def test_choices_of_a_question_share_their_masks(diffusion: EvaluationModel) -> None:
    model = harness_model(diffusion)
    one, other, again = model.loglikelihood(
        requests(("The boat", " was red"), ("A", " b"), ("The boat", " was red")), True
    )
    assert one == again
    assert other != one


def test_random_draws_need_a_sampler(twin: EvaluationModel) -> None:
    with pytest.raises(ValueError, match="do_sample"):
        harness_model(twin).generate_until(requests(("The", {"do_sample": True, "temperature": 0.8})), True)


def test_conversations_keep_their_special_tokens(evaluated: EvaluationModel) -> None:
    model = harness_model(evaluated)
    text = model.apply_chat_template([{"role": "user", "content": "red <|eot_id|>"}])
    assert text.startswith("<|startoftext|><|start_header_id|>user")
    special = evaluated.text.tokenizer.special_tokens
    question = model._question(0, text, {"until": "x", "max_gen_toks": 4})
    assert question.ids.count(special["<|eot_id|>"]) == 1  # the turn's own; the user's is text
    assert (question.until, question.num_new_tokens) == (("x",), 4)
    assert model._question(0, text + " ", {"max_gen_toks": 4}).ids.count(special["<|eot_id|>"]) == 0
    assert len(model.loglikelihood(requests((text, " red")), True)) == 1


def test_an_answer_that_the_task_has_begun_is_a_part_of_the_prompt(evaluated: EvaluationModel) -> None:
    model = harness_model(evaluated)
    turns = [{"role": "user", "content": "Write f."}]
    asked = model._question(0, model.apply_chat_template(turns), {"max_gen_toks": 1})
    begun = [*turns, {"role": "assistant", "content": "def f(x):"}]
    continued = model._question(0, model.apply_chat_template(begun, add_generation_prompt=False), {"max_gen_toks": 1})
    assert asked is not None
    assert continued is not None
    assert continued.ids == [*asked.ids, *evaluated.text.tokenizer.encode("def f(x):")][-len(continued.ids) :]


def test_the_harness_knows_it_by_name(tmp_path: Path, tasks: Path) -> None:
    from tests.tiny_checkpoint import write_checkpoint

    register()
    register()
    folder = write_checkpoint(tmp_path / "checkpoint")
    manager = lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        "llada",
        f"checkpoint={folder},seed=3",
        ["boat_choice"],
        batch_size=2,
        device="cpu",
        limit=1,
        task_manager=manager,
        bootstrap_iters=0,
    )
    assert 0.0 <= found["results"]["boat_choice"]["acc,none"] <= 1.0
    with pytest.raises(ValueError, match="needs a checkpoint"):
        lm_eval.api.registry.get_model("llada").create_from_arg_string("seed=1")
