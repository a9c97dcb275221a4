"""Completions in OpenAI's form: through its own client, and by requests that it would never send."""

import asyncio
import contextlib
import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import torch

from llada.data import Message
from llada.samplers import low_confidence
from llada.serving import Job, Service, build_app
from llada.serving.service import is_own_name
from llada.text import TextModel
from tests.serving.conftest import LIMITS, reason
from tests.tiny_checkpoint import EOT


@pytest.fixture(scope="module")
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture
def raw(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60.0) as made:
        yield made


def expected(text: TextModel, prompt: str, length: int, seed: int) -> str:
    made = text.canvas([text.encode(prompt)], length)
    return text.decode(text.generate(made, seed).tokens[0, -length:].tolist())


def test_a_completion_is_what_the_model_generates(client: openai.OpenAI, text: TextModel) -> None:
    found = client.completions.create(model="tiny", prompt=["The boat", "The little"], max_tokens=8, seed=3)
    assert [choice.text for choice in found.choices] == [
        expected(text, "The boat", 8, 3), expected(text, "The little", 8, 4),
    ]  # fmt: skip
    assert found.usage is not None
    assert found.usage.prompt_tokens == sum(len(text.encode(prompt)) for prompt in ("The boat", "The little"))
    ours = found.usage.model_extra["llada"] if found.usage.model_extra else {}
    assert ours == {"calls": 16, "tokens_per_call": 1.0}
    assert client.models.list().data[0].id == "tiny"


def test_expressions_between_texts_match_alone_and_together(client: openai.OpenAI) -> None:
    patterns = ["(boat|river)", "[a-z]{2,5} ?[a-z]+", "[0-9]{1,3}", ""]
    suffixes, samplers = [" river", "", ".\n\n"], ["spread", "left_to_right", "low_confidence"]

    def sent(seed: int) -> list[str]:
        pattern = patterns[seed % 4]
        expression = {"response_format": {"type": "regex", "pattern": pattern}} if pattern else {}
        found = client.completions.create(
            model="tiny", prompt=["The ", "A little boy"[: 3 + seed]], suffix=suffixes[seed % 3], seed=seed,
            max_tokens=7 + seed % 2, temperature=1.0, extra_body={"sampler": samplers[seed % 3], **expression},
        )  # fmt: skip
        texts = [choice.text for choice in found.choices]
        assert not pattern or all(re.fullmatch(pattern, answer) for answer in texts), (pattern, texts)
        return texts

    single = [sent(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(sent, range(12))) == single


def test_a_hundred_at_once_are_a_hundred_single_ones(client: openai.OpenAI, text: TextModel) -> None:
    other = {"name": "low_confidence", "steps": 4, "temperature": 0.7}
    asked = [("The boat was red, and"[: 4 + i % 17], 4 + i % 5, None if i % 3 else other) for i in range(100)]

    def sent(seed: int) -> str:
        prompt, length, sampler = asked[seed]
        extra = {"sampler": sampler} if sampler else None
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=length, seed=seed, extra_body=extra)
        return found.choices[0].text

    with ThreadPoolExecutor(100) as pool:
        together = list(pool.map(sent, range(100)))
    for seed, (prompt, length, sampler) in enumerate(asked):
        alone = replace(text, sampler=low_confidence(4, temperature=0.7)) if sampler else text
        assert together[seed] == expected(alone, prompt, length, seed), seed
    assert len(set(together)) > 50


def test_chat_suffix_and_expression(client: openai.OpenAI, text: TextModel) -> None:
    said = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Where?"}], max_completion_tokens=8, seed=1,
        logprobs=True,
    )  # fmt: skip
    ids = text.encode_messages([Message("user", "Where?")])
    tokens = text.generate(text.canvas([ids], 8), 1).tokens[0, -8:].tolist()
    assert said.choices[0].message.role == "assistant"
    assert said.choices[0].message.content == text.decode(tokens)
    content = said.choices[0].logprobs
    assert content is not None
    assert content.content is not None
    assert all(each.logprob <= 0.0 for each in content.content)
    assert said.usage is not None
    assert len(content.content) == said.usage.completion_tokens
    filled = client.completions.create(
        model="tiny", prompt="The ", suffix=" river", max_tokens=6, seed=1,
        extra_body={"response_format": {"type": "regex", "pattern": "[a-z ]{2,12}"}},
    )  # fmt: skip
    assert re.fullmatch("[a-z ]{2,12}", filled.choices[0].text)
    assert filled.usage is not None
    assert filled.usage.prompt_tokens == len(text.encode("The ")) + len(text.tokenizer.encode(" river"))


def test_a_log_probability_is_the_models_own(client: openai.OpenAI, text: TextModel) -> None:
    found = client.completions.create(model="tiny", prompt="The boat", max_tokens=1, seed=5, logprobs=1)
    told = found.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    made = text.canvas([text.encode("The boat")], 1)
    token = int(text.generate(made, 5).tokens[0, -1])
    with torch.no_grad():
        logits = text.model.backbone(made.tokens)[0, -1].clone()
    logits[text.tokenizer.mask_token_id] = -torch.inf
    assert math.isclose(told.token_logprobs[0], float(logits.log_softmax(-1)[token]), abs_tol=1e-4)


def test_a_stream_joins_to_the_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "The boat", "max_tokens": 16, "seed": 2}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert pieces[-1].usage is not None
    assert pieces[-1].usage == whole.usage
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    drafts = [
        (piece.choices[0].model_extra or {}).get("llada", {}).get("draft", "") for piece in pieces if piece.choices
    ]
    left = [draft.count("░") for draft in drafts[:-1]]  # the last piece only says why it ended
    assert 0 < left[0] < 16
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    talk = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, stream=True, n=2
    )
    by_choice: dict[int, str] = {0: "", 1: ""}
    for chunk in talk:
        by_choice[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    again = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, n=2
    )
    assert [choice.message.content for choice in again.choices] == [by_choice[0], by_choice[1]]


def test_it_ends_at_a_stop(client: openai.OpenAI, text: TextModel) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "The boat", "max_tokens": 16, "seed": 2}
    whole = client.completions.create(**asked).choices[0]
    stop = whole.text[4:6]
    cut = client.completions.create(**asked, stop=stop).choices[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    streamed = "".join(piece.choices[0].text for piece in client.completions.create(**asked, stop=[stop], stream=True))
    assert streamed == cut.text
    only = [token for token in range(text.tokenizer.vocab_size) if token != EOT]
    ended = client.completions.create(
        **asked, extra_body={"sampler": {"name": "low_confidence", "suppress_tokens": only}}
    ).choices[0]
    assert ended.text == ""
    assert ended.finish_reason == "stop"


REFUSED = [
    ({"prompt": 5}, "prompt must be text"),
    ({"prompt": []}, "prompt must be text, or a list"),
    ({"prompt": [[99999]]}, "token ids from 0 to"),
    ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 64; got 0"),
    ({"max_tokens": 65}, "from 1 to 64; got 65"),
    ({"max_tokens": True}, "max_tokens must be a whole number"),
    ({"prompt": "a" * 500, "max_tokens": 64}, "more than the model's 128"),
    ({"n": 5}, "n must be a whole number from 1 to 4"),
    ({"prompt": ["a", "b", "c"], "n": 2}, "this one asks for 6"),
    ({"temperature": "hot"}, "temperature must be a number"),
    ({"temperature": -1.0}, "temperature"),
    ({"top_p": 7.0}, "top_p"),
    ({"stop": [""]}, "none of them empty"),
    ({"sampler": "fast_dllmm"}, "there is no sampler 'fast_dllmm'"),
    ({"sampler": {"name": "low_confidence", "speed": 3}}, "low_confidence takes no speed; it takes steps"),
    ({"sampler": {"name": "low_confidence", "steps": {"a": 1}}}, "steps must be a whole number or null; got {'a': 1}"),
    (
        {"sampler": {"name": "low_confidence", "block_length": "x"}},
        "block_length must be a whole number or null; got 'x'",
    ),
    ({"sampler": {"name": "low_confidence", "block_length": 2.5}}, "block_length must be a whole number or null"),
    ({"sampler": {"name": "ancestral", "steps": True}}, "steps must be a whole number or null; got True"),
    ({"sampler": {"name": "ancestral", "steps": 10**12}}, "steps may be from -4096 to 4096; got 1000000000000"),
    ({"sampler": {"name": "self_speculative", "guesses": 10**9}}, "guesses may be from"),
    ({"sampler": {"name": "fast_dllm", "threshold": [1]}}, "threshold must be a number; got [1]"),
    ({"sampler": {"name": "fast_dllm", "suppress_tokens": 5}}, "suppress_tokens must be a list of numbers; got 5"),
    ({"sampler": {"name": "fast_dllm", "suppress_tokens": [1.5]}}, "suppress_tokens must be a list of numbers"),
    ({"sampler": {"name": "fast_dllm", "suppress_tokens": [-1]}}, "suppress_tokens may be from 0 to"),
    ({"top_k": 1.5}, "top_k must be a whole number from 1 to"),
    ({"top_k": 0}, "top_k must be a whole number from 1 to"),
    ({"temperature": 10**400}, "temperature must be a number"),
    ({"response_format": {"type": "json_object"}}, "response_format must be"),
    ({"response_format": {"type": "regex", "pattern": "("}}, "("),
    ({"frequency_penalty": 1.0}, "frequency_penalty=1.0 isn't supported"),
    ({"logprobs": 5}, "only the log-probability of each written token"),
    ({"colour": "red"}, "unknown: colour; this server reads"),
    ({"stream": "yes"}, "stream must be true or false"),
    ({"prompt": "\ud800"}, "half a character"),
]


@pytest.mark.parametrize(("body", "why"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cant_be_done_is_said_in_a_sentence(raw: httpx.Client, body: dict[str, Any], why: str) -> None:
    content = json.dumps({"prompt": "The", **body}).encode()
    answer = raw.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert why in reason(answer)


def test_bodies_that_are_no_requests(raw: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    for content, headers, why in (
        (b"{", json_type, "malformed JSON"),
        (b"[1]", json_type, "object"),
        (b'{"prompt": "a", "prompt": "b"}', json_type, "prompt"),
        (b'{"prompt": "' + b"a" * 30_000 + b'"}', json_type, "20000 bytes at most"),
        (b"{}", {"content-type": "text/plain"}, "content-type: application/json"),
        (b'{"messages": []}', json_type, "unknown: messages"),
    ):
        answer = raw.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 400, answer.text
        assert why in reason(answer)
    answer = raw.post("/v1/chat/completions", json={"messages": "hi"})
    assert answer.status_code == 400
    assert "at least one message" in reason(answer)
    assert raw.get("/v1/completions").status_code == 405
    assert raw.get("/nothing").status_code == 404


def test_a_page_from_elsewhere_cant_reach_it(raw: httpx.Client) -> None:
    """A name of another site that resolves to this machine is refused; so no site can read what it is told."""
    assert raw.get("/v1/models", headers={"host": "evil.example"}).status_code == 401
    assert raw.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200
    assert "access-control-allow-origin" not in raw.get("/v1/models").headers
    names = {"127.0.0.1": True, "127.9.9.9:80": True, "[::1]:80": True, "LOCALHOST": True, "": False, "10.0.0.1": False,
             "localhost.evil.example": False, "[::2]": False}  # fmt: skip
    assert {name: is_own_name(name) for name in names} == names


def test_a_token_is_wanted_where_one_is_set(text: TextModel) -> None:
    from starlette.testclient import TestClient

    with TestClient(build_app(Service(text, "tiny", LIMITS, token="secret")), base_url="http://far.example") as far:
        assert far.get("/v1/models").status_code == 401
        assert far.post("/llada/run", json={}).status_code == 401
        assert far.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert far.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert far.get("/").status_code == 200, "the page itself holds nothing"


def test_a_full_line_is_503_and_an_early_leaver_frees_his_place(text: TextModel) -> None:
    from starlette.testclient import TestClient

    from tests.serving.test_engine import PLAIN, Gate, Row

    service = Service(text, "tiny", LIMITS, queue_limit=1)
    gate = Gate()
    busy, waiting = Row(PLAIN, [5], at=gate), Row(PLAIN, [5])
    service.engine.submit([busy.job])
    assert gate.reached.wait(60.0)
    service.engine.submit([waiting.job])
    with TestClient(build_app(service), base_url="http://localhost") as near:
        for stream in (False, True):
            refused = near.post("/v1/completions", json={"prompt": "a", "stream": stream})
            assert refused.status_code == 503
            assert "try again later" in reason(refused)
            assert refused.headers["retry-after"] == "1"
        waiting.job.gone.set()
        gate.opened.set()
        assert near.post("/v1/completions", json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize("version", ["2.3", "2.4"])  # of ASGI: from 2.4 on a client that has left fails the next line
def test_a_stream_whose_client_left_before_its_first_line_frees_its_rows(
    text: TextModel, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    service = Service(text, "tiny", LIMITS)
    jobs: list[Job] = []
    monkeypatch.setattr(service.engine, "submit", jobs.extend)  # and nothing is ever told of them
    body = json.dumps({"prompt": "The boat", "stream": True, "n": 2}).encode()
    came = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return came.pop(0) if len(came) > 1 else came[0]

    async def send(message: dict[str, Any]) -> None:
        raise OSError("nobody is there")

    scope = {
        "type": "http", "asgi": {"spec_version": version}, "method": "POST", "path": "/v1/completions", "raw_path": b"",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def asked() -> list[bool]:
        with contextlib.suppress(Exception):  # what the server logs
            await build_app(service)(scope, receive, send)
        return [job.gone.is_set() for job in jobs]

    assert asyncio.run(asked()) == [True, True]
    service.engine.close()


def test_temperature_holds_for_the_servers_own_sampler(raw: httpx.Client, text: TextModel) -> None:
    asked = {"prompt": "The boat", "max_tokens": 8}
    cold = {
        raw.post("/v1/completions", json={**asked, "temperature": 0, "seed": s}).json()["choices"][0]["text"]
        for s in (1, 2)
    }
    made = text.canvas([text.encode("The boat")], 8)
    greedy = text.model.generate(*made[:1], given=made.given, sampler=low_confidence(8, block_length=8)).tokens[0, -8:]
    assert cold == {text.decode(greedy.tolist())}
