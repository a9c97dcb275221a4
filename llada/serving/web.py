"""What is used of starlette: requests read with care, replies, and the application. No other file imports it.

It is the base of FastAPI and of LitServe. LitServe itself gives a request neither a way out of a full line nor word
that its client has left, which are needed here.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from llada.files.json_object import parse_object
from llada.serving.engine import Busy
from llada.serving.limits import Limits

Handler = Callable[[Any], Awaitable[Any]]
_LOG = logging.getLogger(__name__)


def application(routes: Sequence[tuple[str, str, Handler]], life: Any) -> Any:
    """An ASGI application.

    Args:
        routes: method, path and handler of each.
        life: what surrounds its life, as starlette's ``lifespan``.

    Raises:
        ImportError: without the extra ``serve``.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError("serving needs starlette and uvicorn: pip install llada[serve]") from error
    return Starlette(lifespan=life, routes=[Route(path, handler, methods=[method]) for method, path, handler in routes])


def json_reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    """A JSON object."""
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status, headers=headers)


def html_reply(content: str, headers: Mapping[str, str]) -> Any:
    """A page."""
    from starlette.responses import HTMLResponse

    return HTMLResponse(content, headers=headers)


def stream_reply(lines: AsyncIterator[str], held: AsyncExitStack) -> Any:
    """Server-sent events.

    Args:
        lines: the events.
        held: what they need; it is closed when the reply ends, also where a client left before the first line was asked
            for, and so no line's own ``finally`` runs.
    """
    from starlette.responses import StreamingResponse

    class Closing(StreamingResponse):
        async def __call__(self, *connection: Any) -> None:
            async with held:
                await super().__call__(*connection)

    return Closing(lines, media_type="text/event-stream")


async def content_of(request: Any, limits: Limits) -> dict[str, Any]:
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


def told_of(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Status and account of an error; what isn't the client's fault goes to the log alone."""
    if isinstance(error, Busy):
        return 503, {"message": str(error), "type": "overloaded_error", "param": None, "code": "overloaded"}
    if isinstance(error, ValueError | ImportError):
        return 400, {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
    _LOG.exception("a request failed", exc_info=error)
    return 500, {"message": "the server failed; its log says why", "type": "server_error", "param": None, "code": None}
