"""What the page is told: a run step by step, from any canvas, and what else could stand at a place."""

import json
from typing import Any

import httpx
import pytest
import torch

from llada.samplers import spread
from llada.text import TextModel
from tests.serving.conftest import reason
from tests.tiny_checkpoint import MASK


def run(server: str, **content: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server}/llada/run", json=content, timeout=60.0)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def replayed(events: list[dict[str, Any]]) -> list[int | None]:
    canvas = list(events[0]["canvas"])
    for event in events[1:]:
        for place, token, _, _ in event.get("changes", []):
            canvas[place] = token
    return canvas


def test_the_steps_lead_from_the_canvas_to_the_text(server: str, text: TextModel) -> None:
    events = run(server, text="The boat", length=8, seed=3)
    made = text.canvas([text.encode("The boat")], 8)
    whole = text.generate(made, 3)
    assert events[0]["canvas"][-8:] == [None] * 8
    assert events[0]["given"].count(False) == 8
    assert replayed(events) == whole.tokens[0].tolist()
    assert events[-1]["tokens"] == 8
    assert events[-1]["answer"] == text.decode(whole.tokens[0, -8:].tolist())
    written = [change for event in events[1:-1] for change in event["changes"]]
    assert all(spelt == text.tokenizer.decode([token]) for _, token, spelt, _ in written)
    assert events[-2]["calls"] == 8


def test_it_goes_on_from_where_a_token_was_taken_back(server: str) -> None:
    canvas = replayed(run(server, text="The boat", length=8, seed=3))
    place = len(canvas) - 4
    again = replayed(run(server, canvas=[*canvas[:place], None, *canvas[place + 1 :]], seed=8))
    assert [a for i, a in enumerate(again) if i != place] == [a for i, a in enumerate(canvas) if i != place]
    assert again[place] is not None


def test_gaps(server: str, text: TextModel) -> None:
    events = run(server, text="The [MASK:3] was")
    assert events[0]["canvas"].count(None) == 3
    assert None not in replayed(events)


def test_its_price_is_that_of_the_sampler(server: str, text: TextModel) -> None:
    events = run(server, text="The", length=6, seed=2, sampler={"name": "spread", "temperature": 1.0}, price=True)
    tokens = torch.tensor([replayed(events)])
    given = torch.arange(tokens.shape[1])[None] < tokens.shape[1] - 6
    sampler = spread(temperature=1.0)
    told = sampler.likelihood(text.model.backbone, tokens, text.model.process, given=given)
    assert events[-1]["exact"] is told.is_exact
    assert events[-1]["nats"] == pytest.approx(-float(told.log_likelihood[0]), abs=1e-9)
    without = run(server, text="The", length=6, price=True)[-1]
    assert without["nats"] is None
    assert "Confidence" in without["gap"]


def test_alternatives_are_the_models_likeliest(server: str, text: TextModel) -> None:
    canvas: list[int | None] = [*text.encode("The boat"), None, None]
    place = len(canvas) - 2
    found = httpx.post(f"{server}/llada/alternatives", json={"canvas": canvas, "place": place}).json()["alternatives"]
    with torch.no_grad():
        tokens = torch.tensor([[MASK if token is None else token for token in canvas]])
        logits = text.model.backbone(tokens)[0, place]
    logits[MASK] = -torch.inf
    top = logits.softmax(-1).topk(5)
    assert [each[0] for each in found] == top.indices.tolist()
    assert [each[2] for each in found] == pytest.approx(top.values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        ("run", {"canvas": []}, "isn't empty"),
        ("run", {"canvas": [5]}, "nothing is open"),
        ("run", {"canvas": [None, "a"]}, "token ids from 0 to"),
        ("run", {"canvas": [None] * 200}, "more than the 128"),
        ("run", {"text": "a", "size": 3}, "unknown: size"),
        ("run", {"text": "[MASK:40] and [MASK:99999999999]"}, "the gaps have 100000000039 places, more than the 64"),
        ("run", {"messages": [{"role": "user"}]}, "the request"),
        ("alternatives", {"canvas": [5, None], "place": 2}, "place must be from 0 to 1"),
        ("encode", {"text": 5}, "text must be text"),
    ],
)
def test_refusals(server: str, path: str, content: dict[str, Any], why: str) -> None:
    answer = httpx.post(f"{server}/llada/{path}", json=content)
    assert answer.status_code == 400, answer.text
    assert why in reason(answer)


def test_about_and_encode(server: str, text: TextModel) -> None:
    told = httpx.get(f"{server}/llada/about").json()
    by_name = {each["name"]: each for each in told["samplers"]}
    assert told["name"] == "tiny"
    assert told["chat"]
    assert told["gaps"]
    assert told["longest"] == 64
    assert by_name["spread"]["likelihood"]
    assert not by_name["low_confidence"]["likelihood"]
    ids = httpx.post(f"{server}/llada/encode", json={"text": "boat"}).json()["ids"]
    assert ids == text.tokenizer.encode("boat")
