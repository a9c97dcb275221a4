"""A small model behind a server."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.data import load_tokenizer
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import low_confidence
from llada.serving import Limits, Service, build_app
from llada.text import TextModel
from tests.tiny_checkpoint import MASK, write_tokenizer

LIMITS = Limits(num_new_tokens=8, max_new_tokens=64, max_choices=4, max_bytes=20_000)


def reason(answer: object) -> str:
    """What an error says to the client."""
    return str(answer.json()["error"]["message"])  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    words = load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), mask=MASK)
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(words.vocab_size, 32, 1, 2, max_length=128)
    model = DiffusionLM(backbone, MaskingProcess(MASK), sampler=low_confidence(8, block_length=8, temperature=1.0))
    return TextModel(model.eval(), words)


@pytest.fixture(scope="session")
def server(text: TextModel) -> Iterator[str]:
    """The address of a real server on this machine."""
    import uvicorn

    door = socket.create_server(("127.0.0.1", 0))
    app = build_app(Service(text, "tiny", LIMITS, queue_limit=256))
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=running.run, args=([door],), daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=20.0)
