"""Two processes of one run, as torchrun starts them."""

import os
import socket
from pathlib import Path

from tests.processes import Running

SCRIPTS = Path(__file__).parent / "scripts"


def run_two_ranks(script: str, *arguments: object, cwd: Path | None = None, expected: int = 0) -> str:
    """What both have printed.

    Raises:
        AssertionError: if one of them ends with another status, with what both have printed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
    }
    ranks = [
        Running(SCRIPTS / script, *arguments, cwd=cwd, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    ended = [rank.end() for rank in ranks]
    output = "\n".join(rank.output for rank in ended)
    assert [rank.returncode for rank in ended] == [expected, expected], output
    return output
