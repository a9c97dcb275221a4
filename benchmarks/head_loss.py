"""CPU seconds of the ways to compute the head's loss, forward and backward, interleaved; the table of docs/scaling.md.

OMP_NUM_THREADS=1 python benchmarks/head_loss.py --rows 1024 --vocab_size 32000
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from llada.heads import Chunked, HeadLoss, TorchLinear

WIDTH = 256


class AllAtOnce(HeadLoss):
    """All logits, as one tensor."""

    @override
    def __call__(
        self, head: nn.Module, hidden: Tensor, targets: Tensor, weights: Tensor, suppressed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        terms = F.cross_entropy(head(hidden), targets, reduction="none")
        return (terms * weights).sum(), terms.detach()


def main(rows: int, vocab_size: int, repeats: int) -> None:
    """Check that all agree, then time them in turn."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, vocab_size, bias=False)
    hidden = torch.randn(rows, WIDTH, requires_grad=True)
    targets, weights = torch.randint(vocab_size, (rows,)), torch.rand(rows)
    ways: list[HeadLoss] = [Chunked(), TorchLinear(), AllAtOnce()]
    seconds: dict[str, list[float]] = {type(way).__name__: [] for way in ways}
    totals = [way(head, hidden, targets, weights)[0].detach() for way in ways]
    torch.testing.assert_close(totals, [totals[-1]] * len(ways), rtol=1e-5, atol=0.0)
    for _ in range(repeats):
        for way in ways:
            head.weight.grad = hidden.grad = None
            start = time.process_time()
            way(head, hidden, targets, weights)[0].backward()
            seconds[type(way).__name__].append(time.process_time() - start)
    for name, values in seconds.items():
        print(f"{name:12} {statistics.median(values):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocab_size", type=int, default=32_000)
    parser.add_argument("--repeats", type=int, default=3)
    main(**vars(parser.parse_args()))
