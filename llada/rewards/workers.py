"""Rewards on processes of their own, so that a slow one doesn't hold up the model's process."""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, BrokenExecutor, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.data.loader import MOST_WORKERS
from llada.rewards.reward import Reward, Row


@dataclass(frozen=True)
class OnWorkers(Reward):
    """Another reward, computed by worker processes; the numbers are the same.

    Args:
        reward: what they compute; it and the records must be picklable.
        num_workers: how many. They start when the first answers come, which takes seconds.
        timeout: seconds after which a batch of answers is given up, and the run with it.

    Raises:
        ValueError: if ``num_workers`` isn't from 1 to 1024, or ``timeout`` isn't above 0.

    Examples:
        >>> from llada.rewards import Number, OnWorkers
        >>> reward = OnWorkers(Number(), num_workers=4)  # processes start with the first batch of answers
        >>> reward.score("2 + 2 =", "it is 4", {"answer": 4})  # a single answer is judged at once
        1.0
    """

    reward: Reward
    num_workers: int = 2
    timeout: float = 300.0

    _pool: ClassVar[ProcessPoolExecutor | None] = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_workers <= MOST_WORKERS or not self.timeout > 0.0:
            raise ValueError(
                f"num_workers must be from 1 to {MOST_WORKERS} and timeout above 0; "
                f"got {self.num_workers}, {self.timeout}"
            )

    @override
    def score(self, prompt: str, answer: str, row: Row) -> float:
        return self.reward.score(prompt, answer, row)

    @override
    def parts(self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> dict[str, Tensor]:
        """The parts of the inner reward.

        Raises:
            TimeoutError: if the workers take longer than ``timeout``.
            RuntimeError: if one of them ends.
        """
        size = -(-len(answers) // self.num_workers) or 1
        pieces = [
            (list(prompts[start : start + size]), list(answers[start : start + size]), list(rows[start : start + size]))
            for start in range(0, len(answers), size)
        ]
        waiting = [self._workers.submit(_judge, self.reward, *piece) for piece in pieces]
        done, late = wait(waiting, timeout=self.timeout, return_when=FIRST_EXCEPTION)
        error = next((error for each in waiting if each in done and (error := each.exception())), None)
        if late or isinstance(error, BrokenExecutor):
            self.close()
        if isinstance(error, BrokenExecutor):
            raise RuntimeError(
                f"a process that computed {type(self.reward).__name__} ended, perhaps for want of memory"
            ) from error
        if error is not None:
            raise error
        if late:
            raise TimeoutError(
                f"{type(self.reward).__name__} took longer than {self.timeout} seconds for {len(answers)} answers; "
                "give it more num_workers, or a longer timeout"
            )
        found = [each.result() for each in waiting]
        return {name: torch.tensor([value for one in found for value in one[name]]).double() for name in found[0]}

    @override
    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        return self.reward.total(parts)

    def close(self) -> None:
        """End the processes, whatever they are doing; the next answers start new ones."""
        if self._pool is not None:
            # Else a reward that hangs would keep Python from ending.
            processes = list((getattr(self._pool, "_processes", None) or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            object.__setattr__(self, "_pool", None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the processes, which are this process's own."""
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    @property
    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not by fork: the model's process has threads, and perhaps a GPU.
            pool = ProcessPoolExecutor(self.num_workers, mp_context=multiprocessing.get_context("spawn"))
            object.__setattr__(self, "_pool", pool)
        assert self._pool is not None
        return self._pool


def _judge(reward: Reward, prompts: list[str], answers: list[str], rows: list[Row]) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in reward.parts(prompts, answers, rows).items()}
