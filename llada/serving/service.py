"""A model and what is served of it: who may ask, and how rows reach the worker and come back."""

import asyncio
import hmac
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

from llada.serving.at_work import Job
from llada.serving.engine import Engine
from llada.serving.limits import Limits
from llada.serving.openai import Answer, Ask, read_ask
from llada.serving.watch import Run
from llada.text import TextModel
from llada.viewers import Frame

Told = tuple[int, Frame | None]
Queued = tuple[int, Frame | BaseException | None]


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

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
        >>> from llada.data import SentencePieceTraining
        >>> from llada.serving import Service
        >>> from llada.text import TextModel
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> model = DiffusionLM(BidirectionalTransformer(280, 8, 1, 2), MaskingProcess(words.mask_token_id)).eval()
        >>> service = Service(TextModel(model, words), token="secret")  # for llada.serving.build_app
        >>> service.lets_in({}), service.lets_in({"authorization": "Bearer secret"})
        (False, True)
        >>> service.ask({"prompt": "to be", "max_tokens": 4}, chat=False).num_new_tokens
        4
        >>> service.engine.close()
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

        gone = threading.Event()
        jobs = [_job(row, index, ask, teller(index), gone) for index, row in enumerate(rows)]
        self.engine.submit(jobs)
        try:
            yield _until_all_ended(told, len(jobs))
        finally:
            gone.set()

    async def on_worker(self, function: Callable[[], Any]) -> Any:
        """What a function that needs the model gives."""
        return await asyncio.wrap_future(self.engine.call(function))


def _tell(loop: asyncio.AbstractEventLoop, told: "asyncio.Queue[Queued]", what: Queued) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(told.put_nowait, what)


def _job(
    row: Run | Answer,
    index: int,
    ask: Ask | None,
    tell: Callable[[Frame | BaseException | None], None],
    gone: threading.Event,
) -> Job:
    if isinstance(row, Run):
        return Job(row.ids, row.open, row.sampler, row.seed, tell, gone)
    assert ask is not None
    return Job(row.job_ids, row.job_open, ask.sampler, ask.seed + index, tell, gone)


async def _until_all_ended(told: "asyncio.Queue[Queued]", number: int) -> AsyncIterator[Told]:
    while number:
        index, frame = await told.get()
        if isinstance(frame, BaseException):
            raise frame
        number -= frame is None
        yield index, frame


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
