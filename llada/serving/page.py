"""What the page asks for: a run, what else could stand at a place, the tokens of a text, and what model this is."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from llada.serving.decoder import describe
from llada.serving.openai import DONE, event
from llada.serving.service import Service
from llada.serving.watch import alternatives, price, read_canvas, read_run, recording
from llada.serving.web import content_of, json_reply, stream_reply, told_of


async def run(service: Service, request: Any) -> Any:
    """Write a canvas, step by step, for the page."""
    content = await content_of(request, service.limits)
    priced = content.pop("price", False) is True
    asked = read_run(content, service.text, service.limits)
    held = AsyncExitStack()
    told = await held.enter_async_context(service.writing([asked]))

    async def lines() -> AsyncIterator[str]:
        shown, begun, last = recording(asked, service.text), time.perf_counter(), None
        try:
            special = sorted(set(service.text.tokenizer.special_tokens.values()))
            yield event({**shown.first(), "special": special})
            async for _, frame in told:
                if frame is not None:
                    last = frame
                    yield event(shown.step(frame))
            seconds = time.perf_counter() - begun
            assert last is not None  # something was open
            ids = [token for token in shown.ids if token is not None]
            written = [token for token, old in zip(ids, last.given, strict=True) if not old]
            texts = {"answer": service.text.decode(written), "whole": service.text.tokenizer.decode(ids)}
            yield event({"seconds": round(seconds, 4), "tokens": len(written), **texts})
            if priced:
                yield event(await service.on_worker(lambda: price(asked, ids, service.text)))
            yield DONE
        except Exception as error:
            yield event({"error": told_of(error)[1]})

    return stream_reply(lines(), held)


async def others(service: Service, request: Any) -> Any:
    """The likeliest tokens at a place, for the page."""
    content = await content_of(request, service.limits)
    canvas = read_canvas(content.get("canvas"), service.text)
    place = content.get("place")
    if type(place) is not int or not 0 <= place < len(canvas):
        raise ValueError(f"place must be from 0 to {len(canvas) - 1}; got {place!r:.40}")
    found = await service.on_worker(lambda: alternatives(canvas, place, service.text))
    return json_reply({"alternatives": found})


async def encode(service: Service, request: Any) -> Any:
    """The tokens of a text, for the page."""
    written = (await content_of(request, service.limits)).get("text")
    if not isinstance(written, str):
        raise ValueError(f"text must be text; got {written!r:.40}")
    ids = service.text.tokenizer.encode(written)
    return json_reply({"ids": ids, "texts": [service.text.tokenizer.decode([token]) for token in ids]})


async def about(service: Service, request: Any) -> Any:
    """What the page must know of the model."""
    text = service.text
    try:
        chats = text.chat_template is not None
    except ValueError:
        chats = False
    return json_reply({
        "name": service.name, "chat": chats, "length": min(service.limits.num_new_tokens, 64),
        "longest": min(text.max_length or service.limits.max_new_tokens, service.limits.max_new_tokens),
        "gaps": text.model.process.mask_token_id is not None and not text.model.needs_prompt,
        "samplers": describe(text),
    })  # fmt: skip
