"""The server: OpenAI's completions and chat completions, and a page where a person watches the model think.

| path | what |
|---|---|
| ``GET /`` | the page |
| ``GET /v1/models`` | the model's name |
| ``POST /v1/completions``, ``POST /v1/chat/completions`` | see `llada.serving.openai` |
| ``GET /llada/about``, ``POST /llada/run``, ``/llada/alternatives``, ``/llada/encode`` | the page's own |
| ``GET /health`` | 200 while the server takes requests |

It stands on starlette and uvicorn (the extra ``serve``), the base of FastAPI and of LitServe. LitServe itself gives a
request neither a way out of a full line nor word that its client has left, which are needed here.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any

from llada.files.json_object import parse_object
from llada.serving.decoder import describe
from llada.serving.engine import Busy, Engine, Job
from llada.serving.limits import Limits
from llada.serving.openai import Answer, Ask, event, read_ask, usage
from llada.serving.watch import Run, alternatives, price, read_canvas, read_run, recording
from llada.text import FinalText, TextModel
from llada.viewers import Frame, page_source

DONE = "data: [DONE]\n\n"
_LOG = logging.getLogger(__name__)

Told = tuple[int, Frame | None]
Queued = tuple[int, Frame | BaseException | None]
Handler = Callable[[Any], Awaitable[Any]]


class Service:
    """A model and what is served of it.

    Args:
        text: model and tokenizer, with the sampler for those who name none.
        name: of the model, as clients see it.
        limits: of a request.
        batch_size: rows of a model call.
        queue_limit: rows that may wait.
        token: what a client must send as ``Authorization: Bearer TOKEN``; None: nothing. Without one, only requests to
            a name of this very machine are answered, so that a web page from elsewhere can't reach it.
    """

    def __init__(
        self,
        text: TextModel,
        name: str = "llada",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        batch_size: int = 8,
        queue_limit: int = 64,
        token: str | None = None,
    ) -> None:
        self.text, self.name, self.limits, self.token = text, name, limits, token
        self.engine = Engine(text, batch_size, queue_limit)

    def lets_in(self, headers: Any) -> bool:
        """Whether whoever sent these headers may ask."""
        if self.token is None:
            return is_own_name(headers.get("host", ""))
        sent = headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(sent.encode(), self.token.encode())

    def ask(self, content: dict[str, Any], *, chat: bool) -> Ask:
        """A request of OpenAI's kind."""
        return read_ask(content, self.text, self.limits, chat=chat)

    @asynccontextmanager
    async def writing(self, rows: Sequence[Run | Answer], ask: Ask | None = None) -> AsyncIterator[AsyncIterator[Told]]:
        """Let rows be written; what the worker tells of them comes as (index of the row, frame).

        Leaving the context frees the rows that aren't finished.
        """
        loop, told = asyncio.get_running_loop(), asyncio.Queue[Queued]()

        def teller(index: int) -> Callable[[Frame | BaseException | None], None]:
            return lambda frame: _tell(loop, told, (index, frame))

        jobs = [_job(row, index, ask, teller(index)) for index, row in enumerate(rows)]
        self.engine.submit(jobs)
        try:
            yield _until_all_ended(told, len(jobs))
        finally:
            for job in jobs:
                job.gone.set()

    async def on_worker(self, function: Callable[[], Any]) -> Any:
        """What a function that needs the model gives."""
        return await asyncio.wrap_future(self.engine.call(function))


def _tell(loop: asyncio.AbstractEventLoop, told: "asyncio.Queue[Queued]", what: Queued) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(told.put_nowait, what)


def _job(row: Run | Answer, index: int, ask: Ask | None, tell: Callable[[Frame | BaseException | None], None]) -> Job:
    if isinstance(row, Run):
        return Job(row.ids, row.open, row.sampler, row.seed, tell)
    assert ask is not None
    return Job(row.job_ids, row.job_open, ask.sampler, ask.seed + index, tell)


async def _until_all_ended(told: "asyncio.Queue[Queued]", number: int) -> AsyncIterator[Told]:
    while number:
        index, frame = await told.get()
        if isinstance(frame, BaseException):
            raise frame
        number -= frame is None
        yield index, frame


async def completion(service: Service, request: Any, *, chat: bool) -> Any:
    """Answer a request of OpenAI's kind."""
    from starlette.responses import JSONResponse, StreamingResponse

    ask = service.ask(await _content(request, service.limits), chat=chat)
    answers = [Answer(ask, index, service.text) for index in range(len(ask.rows))]
    head = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": ("chat.completion" if chat else "text_completion") + (".chunk" if chat and ask.stream else ""),
        "created": int(time.time()),
        "model": service.name,
    }
    if ask.stream:
        context = service.writing(answers, ask)
        told = await context.__aenter__()  # a full line is refused before the stream begins
        return StreamingResponse(_pieces(service, ask, answers, head, told, context), media_type="text/event-stream")

    async def whole() -> None:
        async with service.writing(answers, ask) as told:
            async for index, frame in told:
                if frame is not None:
                    answers[index].see(frame)

    await _while_connected(request, whole())
    return JSONResponse({**head, "choices": [answer.choice() for answer in answers], "usage": usage(answers)})


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
    service: Service, ask: Ask, answers: list[Answer], head: dict[str, Any], told: AsyncIterator[Told], context: Any
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
        yield event({"error": _told(error)[1]})
    finally:
        await context.__aexit__(None, None, None)


def _written(shown: list[int | None]) -> tuple[list[int], list[bool]]:
    return [token or 0 for token in shown], [token is None for token in shown]


async def run(service: Service, request: Any) -> Any:
    """Write a canvas, step by step, for the page."""
    from starlette.responses import StreamingResponse

    content = await _content(request, service.limits)
    priced = content.pop("price", False) is True
    asked = read_run(content, service.text, service.limits)
    context = service.writing([asked])
    told = await context.__aenter__()

    async def lines() -> AsyncIterator[str]:
        shown, begun, last = recording(asked, service.text), time.perf_counter(), None
        try:
            yield event(shown.first())
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
            yield event({"error": _told(error)[1]})
        finally:
            await context.__aexit__(None, None, None)

    return StreamingResponse(lines(), media_type="text/event-stream")


async def others(service: Service, request: Any) -> Any:
    """The likeliest tokens at a place, for the page."""
    from starlette.responses import JSONResponse

    content = await _content(request, service.limits)
    canvas = read_canvas(content.get("canvas"), service.text)
    place = content.get("place")
    if type(place) is not int or not 0 <= place < len(canvas):
        raise ValueError(f"place must be from 0 to {len(canvas) - 1}; got {place!r:.40}")
    found = await service.on_worker(lambda: alternatives(canvas, place, service.text))
    return JSONResponse({"alternatives": found})


async def encode(service: Service, request: Any) -> Any:
    """The tokens of a text, for the page."""
    from starlette.responses import JSONResponse

    written = (await _content(request, service.limits)).get("text")
    if not isinstance(written, str):
        raise ValueError(f"text must be text; got {written!r:.40}")
    ids = service.text.tokenizer.encode(written)
    return JSONResponse({"ids": ids, "texts": [service.text.tokenizer.decode([token]) for token in ids]})


async def about(service: Service, request: Any) -> Any:
    """What the page must know of the model."""
    from starlette.responses import JSONResponse

    text = service.text
    try:
        chats = text.chat_template is not None
    except ValueError:
        chats = False
    return JSONResponse({
        "name": service.name, "chat": chats, "length": min(service.limits.num_new_tokens, 64),
        "longest": min(text.max_length or service.limits.max_new_tokens, service.limits.max_new_tokens),
        "gaps": text.model.process.mask_token_id is not None and not text.model.needs_prompt,
        "samplers": describe(text),
    })  # fmt: skip


async def models(service: Service, request: Any) -> Any:
    """The list of models: the one."""
    from starlette.responses import JSONResponse

    entry = {"id": service.name, "object": "model", "created": 0, "owned_by": "local"}
    return JSONResponse({"object": "list", "data": [entry]})


async def _content(request: Any, limits: Limits) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ValueError: if it is too large, not declared as JSON, or none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ValueError("send the request as content-type: application/json")
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > limits.max_bytes:
            raise ValueError(f"a request may have {limits.max_bytes} bytes at most")
    return parse_object(received, "the request")


def _told(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Status and account of an error; what isn't the client's fault goes to the log alone."""
    if isinstance(error, Busy):
        return 503, {"message": str(error), "type": "overloaded_error", "param": None, "code": "overloaded"}
    if isinstance(error, ValueError | ImportError):
        return 400, {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
    _LOG.exception("a request failed", exc_info=error)
    return 500, {"message": "the server failed; its log says why", "type": "server_error", "param": None, "code": None}


def page() -> tuple[str, str]:
    """The page, and the policy that lets nothing run but its own script."""
    content = page_source()

    def digest(tag: str) -> str:
        inside = content.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {digest('script')}; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return content, policy


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine itself.

    Args:
        host: such as "localhost:8000" or "[::1]:8000".
    """
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def build_app(service: Service) -> Any:
    """The application, for uvicorn or any other server of the ASGI kind.

    Args:
        service: what it serves.

    Raises:
        ImportError: without the extra ``serve``.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError("serving needs starlette and uvicorn: pip install llada[serve]") from error

    async def health(request: Any) -> Any:
        return PlainTextResponse("ok")

    def post(path: str, handler: Callable[[Service, Any], Awaitable[Any]]) -> Any:
        return Route(path, _open_to(service, handler), methods=["POST"])

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close)

    return Starlette(
        lifespan=life,
        routes=[
            Route("/", _front()),
            Route("/health", health),
            Route("/v1/models", _open_to(service, models)),
            post("/v1/completions", partial(completion, chat=False)),
            post("/v1/chat/completions", partial(completion, chat=True)),
            Route("/llada/about", _open_to(service, about)),
            post("/llada/run", run),
            post("/llada/alternatives", others),
            post("/llada/encode", encode),
        ],
    )


def _front() -> Handler:
    """The page, which holds nothing of the model."""
    from starlette.responses import HTMLResponse

    content, policy = page()
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "cache-control": "no-store"}

    async def front(request: Any) -> Any:
        return HTMLResponse(content, headers=headers)

    return front


def _open_to(service: Service, handler: Callable[[Service, Any], Awaitable[Any]]) -> Handler:
    """A handler for those who may ask, whose errors become answers."""
    from starlette.responses import JSONResponse

    async def guarded(request: Any) -> Any:
        if not service.lets_in(request.headers):
            message = "send the server's token as Authorization: Bearer TOKEN"
            account = {"message": message, "type": "authentication_error", "param": None, "code": "no_token"}
            return JSONResponse({"error": account}, status_code=401)
        try:
            return await handler(service, request)
        except Exception as error:
            status, account = _told(error)
            wait = {"retry-after": "1"} if status == 503 else None
            return JSONResponse({"error": account}, status_code=status, headers=wait)

    return guarded
