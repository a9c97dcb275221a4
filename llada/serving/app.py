"""The server: OpenAI's completions and chat completions, and a page where a person watches the model think.

| path | what |
|---|---|
| ``GET /`` | the page |
| ``GET /v1/models`` | the model's name |
| ``POST /v1/completions``, ``POST /v1/chat/completions`` | see `llada.serving.openai` |
| ``GET /llada/about``, ``POST /llada/run``, ``/llada/alternatives``, ``/llada/encode`` | the page's own |
| ``GET /health`` | 200 while the server takes requests |
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from llada.serving.completions import completion
from llada.serving.page import about, encode, others, run
from llada.serving.service import Service
from llada.serving.web import Handler, application, html_reply, json_reply, told_of
from llada.viewers import page_source


def build_app(service: Service) -> Any:
    """The application, for uvicorn or any other server of the ASGI kind.

    Args:
        service: what it serves.

    Raises:
        ImportError: without the extra ``serve``.
    """

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close)

    async def health(request: Any) -> Any:
        return json_reply("ok")

    asked: list[tuple[str, str, Callable[[Service, Any], Awaitable[Any]]]] = [
        ("GET", "/v1/models", models),
        ("POST", "/v1/completions", partial(completion, chat=False)),
        ("POST", "/v1/chat/completions", partial(completion, chat=True)),
        ("GET", "/llada/about", about),
        ("POST", "/llada/run", run),
        ("POST", "/llada/alternatives", others),
        ("POST", "/llada/encode", encode),
    ]
    open_to_all = [("GET", "/", _front()), ("GET", "/health", health)]
    guarded = [(method, path, _open_to(service, handler)) for method, path, handler in asked]
    return application([*open_to_all, *guarded], life)


async def models(service: Service, request: Any) -> Any:
    """The list of models: the one."""
    entry = {"id": service.name, "object": "model", "created": 0, "owned_by": "local"}
    return json_reply({"object": "list", "data": [entry]})


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


def _front() -> Handler:
    """The page, which holds nothing of the model."""
    content, policy = page()
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "cache-control": "no-store"}

    async def front(request: Any) -> Any:
        return html_reply(content, headers)

    return front


def _open_to(service: Service, handler: Callable[[Service, Any], Awaitable[Any]]) -> Handler:
    """A handler for those who may ask, whose errors become answers."""

    async def guarded(request: Any) -> Any:
        if not service.lets_in(request.headers):
            message = "send the server's token as Authorization: Bearer TOKEN"
            account = {"message": message, "type": "authentication_error", "param": None, "code": "no_token"}
            return json_reply({"error": account}, status=401)
        try:
            return await handler(service, request)
        except Exception as error:
            status, account = told_of(error)
            wait = {"retry-after": "1"} if status == 503 else None
            return json_reply({"error": account}, status=status, headers=wait)

    return guarded
