"""What holds for the whole suite: one thread, fixed seeds, GPU tests only where there is a GPU."""

import gc
import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import settings

# Modules, functions and types are made by the hundred thousand, and all of them stay.
gc.set_threshold(20_000, 20, 20)

# With more threads than free cores, small tensors spend their time on waiting for one another. Lightning's strategies
# for several processes set the number themselves unless the variable says it.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes of a test talk to each other over the loopback, not over the network that the machine's name leads to.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")

# Property tests draw the same examples everywhere, and a loaded machine is not a failure.
settings.register_profile("llada", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("llada")


def pytest_collection_finish() -> None:
    """Half a million objects of the imported packages live to the end: the collector need not look at them again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - other packages draw from numpy's global generator
    torch.manual_seed(0)


RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK")


@pytest.fixture(autouse=True, scope="module")
def no_process_group_is_left() -> Iterator[None]:
    """A strategy leaves its process group and its port behind, where the processes of a later file would meet."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in RENDEZVOUS:
        os.environ.pop(name, None)
