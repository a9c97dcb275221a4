"""The bodies of OpenAI's completions and chat completions, read and written.

What is ours beside them: ``sampler`` and ``top_k`` in a request; ``usage.llada`` with the model calls and the tokens
per call; ``llada.draft`` in the pieces of a stream, which is the text as it stands, with a sign for each mask. The
``logprob`` of a token is the model's when it was written.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from llada.data import Message
from llada.data.chat.conversations import read_messages, read_tools
from llada.samplers import Sampler
from llada.serving.body import Body
from llada.serving.decoder import decoder
from llada.serving.limits import Limits
from llada.text import TextModel
from llada.viewers import Frame

MASK_SIGN = "░"
DONE = "data: [DONE]\n\n"
"""The end of a stream."""
IGNORED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "prediction")


@dataclass(frozen=True)
class Prompt:
    """A row to be written.

    Attributes:
        before: token ids in front of the answer.
        after: token ids behind it.
    """

    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class Ask:
    """A request that can be carried out.

    Attributes:
        chat: whether it is of the chat kind.
        rows: a prompt for each choice of the answer.
        num_new_tokens: places of an answer.
        sampler: how it is decoded.
        seed: of the first choice; the next get the next numbers.
        until: texts that end an answer.
        stream: whether pieces are sent as they become final.
        usage: whether a stream ends with the usage.
        logprobs: whether each token's log-probability is wanted.
    """

    chat: bool
    rows: list[Prompt]
    num_new_tokens: int
    sampler: Sampler
    seed: int
    until: tuple[str, ...]
    stream: bool
    usage: bool
    logprobs: bool


def read_ask(content: dict[str, Any], text: TextModel, limits: Limits, *, chat: bool) -> Ask:
    """Understand a request.

    Args:
        content: the body.
        text: model and tokenizer.
        limits: what may be asked for.
        chat: whether it has ``messages``, else a ``prompt``.

    Raises:
        ValueError: if it can't be carried out as it stands.
    """
    body = Body(content)
    body.take("model")
    prompts = [Prompt(_messages(body, text), [])] if chat else _prompts(body, text)
    most = limits.max_new_tokens
    length = body.integer("max_tokens", limits.num_new_tokens, 1, most)
    if chat:
        length = body.integer("max_completion_tokens", length, 1, most)
    copies = body.integer("n", 1, 1, limits.max_choices)
    rows = [prompt for prompt in prompts for _ in range(copies)]
    if len(rows) > limits.max_choices:
        raise ValueError(f"a request may have {limits.max_choices} answers at most; this one asks for {len(rows)}")
    for prompt in prompts:
        _check_room(prompt, length, text)
    options = body.take("stream_options", {})
    asked = body.take("logprobs", False)
    if body.integer("top_logprobs", 0, 0, 20) or (isinstance(asked, int) and asked > 1):
        raise ValueError("only the log-probability of each written token is told: logprobs=true (chat) or 1")
    for name in ("frequency_penalty", "presence_penalty"):
        body.neutral(name, (0,), "a diffusion model writes in any order, so there is no history to punish")
    body.neutral("logit_bias", ({},), "use a sampler's suppress_tokens")
    body.neutral("best_of", (copies,), "every choice is returned: use n")
    body.neutral("echo", (False,), "the prompt isn't scored; `llada score` does that")
    body.neutral("tool_choice", ("auto", "none"), "a model calls tools as its template has them")
    ask = Ask(
        chat, rows, length, decoder(body, text, limits), body.integer("seed", 0, -(2**62), 2**62),
        _until(body.take("stop", [])), body.flag("stream"),
        isinstance(options, dict) and options.get("include_usage") is True, bool(asked),
    )  # fmt: skip
    body.end(IGNORED)
    return ask


def _messages(body: Body, text: TextModel) -> list[int]:
    record = {name: value for name in ("messages", "tools") if (value := body.take(name)) is not None}
    messages: list[Message] = read_messages(record, "messages", "the request", ())
    return text.encode_messages(messages, read_tools(record, "tools", "the request"))


def _prompts(body: Body, text: TextModel) -> list[Prompt]:
    asked, suffix = body.take("prompt", ""), body.text("suffix", "")
    after = text.tokenizer.encode(suffix) if suffix else []
    is_ids = isinstance(asked, list) and bool(asked) and all(type(each) is int for each in asked)
    several = asked if isinstance(asked, list) and not is_ids else [asked]
    if not several:
        raise ValueError("prompt must be text, or a list of texts that isn't empty")
    return [Prompt(text.context(_ids(each, text)), after) for each in several]


def _ids(prompt: Any, text: TextModel) -> list[int]:
    if isinstance(prompt, str):
        return text.encode(prompt)
    size = text.tokenizer.vocab_size
    if isinstance(prompt, list) and all(type(each) is int and 0 <= each < size for each in prompt):
        return list(prompt)
    raise ValueError(f"prompt must be text, or token ids from 0 to {size - 1}; got {prompt!r:.80}")


def _check_room(prompt: Prompt, length: int, text: TextModel) -> None:
    size = len(prompt.before) + length + len(prompt.after)
    if text.max_length is not None and size > text.max_length:
        raise ValueError(
            f"the prompt has {size - length} tokens, which with max_tokens={length} make {size}, more than the model's "
            f"{text.max_length}; shorten it, or ask for fewer"
        )


def _until(asked: Any) -> tuple[str, ...]:
    texts = [asked] if isinstance(asked, str) else asked
    if not isinstance(texts, list) or len(texts) > 16 or not all(isinstance(each, str) and each for each in texts):
        raise ValueError(f"stop must be a text or a list of up to 16 texts, none of them empty; got {asked!r:.80}")
    return tuple(texts)


class Answer:
    """One choice of an answer, read off the frames of its row.

    Args:
        ask: the request.
        index: which choice.
        text: model and tokenizer.
    """

    def __init__(self, ask: Ask, index: int, text: TextModel) -> None:
        self.ask, self.index, self.text = ask, index, text
        row = ask.rows[index]
        self.begin, self.behind = len(row.before), len(row.after)
        self.logprobs = [0.0] * len(self.job_ids)  # of all places
        self.ids: list[int] = []
        self.calls = 0

    @property
    def job_ids(self) -> list[int]:
        """The row's token ids, with any token at the places to be written."""
        row = self.ask.rows[self.index]
        return [*row.before, *[0] * self.ask.num_new_tokens, *row.after]

    @property
    def job_open(self) -> list[bool]:
        """The places to be written."""
        end = self.begin + self.ask.num_new_tokens
        return [self.begin <= place < end for place in range(len(self.job_ids))]

    def see(self, frame: Frame) -> list[int | None]:
        """Take note of a step.

        Returns:
            The answer's ids, None where there is a mask.
        """
        if frame.source is not None:
            self.logprobs = [0.0 if place < 0 else self.logprobs[place] for place in frame.source]
        for place, sure in enumerate(frame.confidence):
            if frame.changed[place] and sure is not None:
                self.logprobs[place] = math.log(max(sure, 1e-45))
        shown, self.calls = frame.ids[self.begin : len(frame.ids) - self.behind], frame.calls
        self.ids = [token for token in shown if token is not None]
        return shown

    def draft(self, shown: list[int | None]) -> str:
        """The text as it stands, with a sign for each mask."""
        mask = self.text.model.process.mask_token_id
        ids = [mask if token is None else token for token in shown]
        return self.text.decode([token for token in ids if token is not None], show_mask=MASK_SIGN)

    @property
    def content(self) -> str:
        """The finished text."""
        return self.text.decode(self.ids, self.ask.until)

    @property
    def finish(self) -> str:
        """Why it ends: "stop" at a stop token or text, "length" at the last place."""
        return "stop" if self.text.has_ended(self.ids, self.ask.until) else "length"

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer, up to where it ends."""
        return len(self.text.answer(self.ids))

    def choice(self) -> dict[str, Any]:
        """The finished choice."""
        said = {"message": {"role": "assistant", "content": self.content}} if self.ask.chat else {"text": self.content}
        return {"index": self.index, **said, "logprobs": self._logprobs(), "finish_reason": self.finish}

    def piece(self, new: str, draft: str | None, *, last: bool = False) -> dict[str, Any]:
        """A piece of a stream."""
        said: dict[str, Any] = {"delta": {"content": new}} if self.ask.chat else {"text": new}
        ours = {} if draft is None else {"llada": {"draft": draft, "calls": self.calls}}
        finish = self.finish if last else None
        return {"index": self.index, **said, "logprobs": None, "finish_reason": finish, **ours}

    def _logprobs(self) -> dict[str, Any] | None:
        if not self.ask.logprobs:
            return None
        pairs = list(zip(self.text.answer(self.ids), self.logprobs[self.begin :], strict=False))
        texts = [self.text.tokenizer.decode([token]) for token, _ in pairs]
        values = [value for _, value in pairs]
        if not self.ask.chat:
            offsets = [sum(map(len, texts[:i])) for i in range(len(texts))]
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}
        return {
            "content": [
                {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
                for token, value in zip(texts, values, strict=True)
            ]
        }


def usage(answers: list[Answer]) -> dict[str, Any]:
    """Tokens of the prompts and of the answers, and what they took."""
    prompts = sum(len(row.before) + len(row.after) for row in answers[0].ask.rows)
    written, calls = sum(answer.num_tokens for answer in answers), sum(answer.calls for answer in answers)
    generated = sum(answer.ask.num_new_tokens for answer in answers)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": written,
        "total_tokens": prompts + written,
        "llada": {"calls": calls, "tokens_per_call": generated / max(calls, 1)},
    }


def event(content: dict[str, Any]) -> str:
    """A line of a stream of server-sent events."""
    return f"data: {json.dumps(content, ensure_ascii=True, allow_nan=False)}\n\n"
