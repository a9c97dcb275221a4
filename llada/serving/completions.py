"""``POST /v1/completions`` and ``/v1/chat/completions``: whole answers, and streams of pieces."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from llada.serving.openai import DONE, Answer, Ask, event, usage
from llada.serving.service import Service, Told
from llada.serving.web import content_of, json_reply, stream_reply, told_of
from llada.text import FinalText


async def completion(service: Service, request: Any, *, chat: bool) -> Any:
    """Answer a request of OpenAI's kind."""
    ask = service.ask(await content_of(request, service.limits), chat=chat)
    answers = [Answer(ask, index, service.text) for index in range(len(ask.rows))]
    head = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": ("chat.completion" if chat else "text_completion") + (".chunk" if chat and ask.stream else ""),
        "created": int(time.time()),
        "model": service.name,
    }
    if ask.stream:
        held = AsyncExitStack()
        told = await held.enter_async_context(service.writing(answers, ask))  # a full line is refused here
        return stream_reply(_pieces(service, ask, answers, head, told), held)

    async def whole() -> None:
        async with service.writing(answers, ask) as told:
            async for index, frame in told:
                if frame is not None:
                    answers[index].see(frame)

    await _while_connected(request, whole())
    return json_reply({**head, "choices": [answer.choice() for answer in answers], "usage": usage(answers)})


async def _while_connected(request: Any, work: Any) -> None:
    """Wait for work, and give it up when the client leaves."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=0.2)
        if not task.done() and await request.is_disconnected():
            task.cancel()
            break
    await task


async def _pieces(
    service: Service, ask: Ask, answers: list[Answer], head: dict[str, Any], told: AsyncIterator[Told]
) -> AsyncIterator[str]:
    """The lines of a stream."""
    is_final = ask.sampler.is_final
    texts = [FinalText(service.text.tokenizer.decode, service.text.stop_token_ids) for _ in answers]
    sent = [""] * len(answers)
    try:
        if ask.chat:
            for answer in answers:
                start = {"index": answer.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                yield event({**head, "choices": [start]})
        async for index, frame in told:
            answer = answers[index]
            if frame is None:
                rest = answer.content.removeprefix(sent[index])
                yield event({**head, "choices": [answer.piece(rest, None, last=True)]})
                continue
            shown = answer.see(frame)
            new = texts[index].push(*_written(shown), grows=True) if is_final and not ask.until else ""
            sent[index] += new
            yield event({**head, "choices": [answer.piece(new, answer.draft(shown))]})
        if ask.usage:
            yield event({**head, "choices": [], "usage": usage(answers)})
        yield DONE
    except Exception as error:
        yield event({"error": told_of(error)[1]})


def _written(shown: list[int | None]) -> tuple[list[int], list[bool]]:
    return [token or 0 for token in shown], [token is None for token in shown]
