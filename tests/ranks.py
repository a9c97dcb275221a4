"""Two processes of one run, as torchrun starts them."""

import os
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from tests.processes import Running

SCRIPTS = Path(__file__).parent / "scripts"


def meeting_point() -> tuple[TCPStore, dict[str, str]]:
    """A store where two ranks find each other as long as it is kept, and the variables that say where it is.

    It is in this process, as torchrun's is in its agent: no other process can take its port before the ranks do, and
    no rank waits for one that has ended.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5))
    return store, {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def run_two_ranks(script: str, *arguments: object, cwd: Path | None = None, expected: int = 0) -> str:
    """What both have printed.

    Raises:
        AssertionError: if one of them ends with another status, with what both have printed.
    """
    store, where = meeting_point()
    environment = {**os.environ, **where, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    ranks = [
        Running(SCRIPTS / script, *arguments, cwd=cwd, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    ended = [rank.end() for rank in ranks]
    del store
    output = "\n".join(rank.output for rank in ended)
    assert [rank.returncode for rank in ended] == [expected, expected], output
    return output
