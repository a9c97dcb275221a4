"""Where do the policy updates of the literature point? All of it exactly, on a model small enough to count everything.

    python examples/policy_gradients.py

Three tokens of three symbols, a random network, a reward for each of the 27 texts. The policy is the network with a
sampler, so the gradient of the expected reward is a sum over all texts. Beside it stands the expected update of each
method for groups of two answers: over all pairs of texts, and over the noise of its masks by 400 draws.
Printed is the cosine between the two; 1 means that the method climbs the hill that it is meant to climb.
"""

import argparse
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.rewards import (
    ADVANTAGES,
    PolicyObjective,
    coupled_grpo,
    diffu_grpo,
    ebpo,
    spg,
    trace_rl,
    trajectory_grpo,
    wd1,
)
from llada.samplers import LeftToRight, PerStep, Proposal, Sampler, TopProb, UnmaskingSampler

LENGTH, SYMBOLS = 3, 3
MASK = SYMBOLS
TEXTS = torch.cartesian_prod(*[torch.arange(SYMBOLS)] * LENGTH)
PROCESS = MaskingProcess(MASK)
Method = Callable[[Sampler], PolicyObjective]
METHODS: dict[str, Method] = {
    "trajectory_grpo": trajectory_grpo,
    "trace_rl": lambda sampler: trace_rl(sampler, kl_weight=0.0),
    "coupled_grpo": lambda sampler: coupled_grpo(sampler, kl_weight=0.0),
    "diffu_grpo": lambda sampler: diffu_grpo(sampler, prompt_masking=0.0, kl_weight=0.0),
    "wd1": lambda sampler: wd1(sampler, prompt_masking=0.0),
    "spg": lambda sampler: spg(sampler, block_length=None, prompt_masking=0.0),
    "ebpo": ebpo,
}
NOISY = ("coupled_grpo", "spg", "ebpo")
SAMPLERS: dict[str, Sampler] = {
    "left to right": UnmaskingSampler(PerStep(1), LeftToRight(), proposal=Proposal(1.0)),
    "surest first": UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(1.0)),
    "surest first, T = 0.7": UnmaskingSampler(PerStep(1), TopProb(), proposal=Proposal(0.7)),
    "two at once": UnmaskingSampler(PerStep(2), TopProb(), proposal=Proposal(1.0)),
}


class Network(nn.Module):
    """A random network of 24 hidden units that sees the whole canvas.

    Args:
        seed: of its weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        inner = torch.randn(24, LENGTH * (SYMBOLS + 1), generator=random, dtype=torch.float64)
        outer = torch.randn(LENGTH * (SYMBOLS + 1), 24, generator=random, dtype=torch.float64)
        self.inner = nn.Parameter(inner * 1.5 / math.sqrt(LENGTH))
        self.outer = nn.Parameter(outer * 3.0 / math.sqrt(24))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, (B, 3, 4)."""
        seen = nn.functional.one_hot(tokens, SYMBOLS + 1).double().flatten(1)
        return (torch.tanh(seen @ self.inner.T) @ self.outer.T).view(-1, LENGTH, SYMBOLS + 1)


def rewards_of(seed: int) -> Tensor:
    """A random reward for every text, more for those whose symbols all differ; (27,) float64."""
    random = torch.Generator().manual_seed(1000 + seed)
    differ = torch.tensor([len(set(text)) == LENGTH for text in TEXTS.tolist()])
    return torch.rand(len(TEXTS), generator=random, dtype=torch.float64) + 1.5 * differ


def replay(network: nn.Module, text: list[int], name: str) -> tuple[Tensor, list[int]]:
    """Log p of a text under the sampler of that name, written out by hand, and at which step each token comes."""
    temperature, width = (0.7 if "0.7" in name else 1.0), (2 if name == "two at once" else 1)
    canvas, steps, total = [MASK] * LENGTH, [0] * LENGTH, torch.zeros((), dtype=torch.float64)
    for step in range(LENGTH):
        waiting = [at for at in range(LENGTH) if canvas[at] == MASK]
        if not waiting:
            break
        logits = network(torch.tensor([canvas]))[0, :, :SYMBOLS]
        sure = logits.softmax(-1).amax(-1).tolist()
        waiting = waiting if name == "left to right" else sorted(waiting, key=lambda at: -sure[at])
        law = (logits / temperature).log_softmax(-1)
        for at in waiting[:width]:
            total, steps[at] = total + law[at, text[at]], step
        for at in waiting[:width]:
            canvas[at] = text[at]
    return total, steps


def gradient(value: Tensor, network: nn.Module) -> Tensor:
    """The gradient of a number in all weights, (N,)."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(network.parameters()))])


def direction(method: str, sampler: str, seed: int, draws: int = 400) -> float:
    """The cosine between a method's expected update and the policy gradient."""
    network, rewards = Network(seed), rewards_of(seed)
    replayed = [replay(network, text, sampler) for text in TEXTS.tolist()]
    log_prob = torch.stack([one for one, _ in replayed])
    exact = gradient((log_prob.exp() * rewards).sum(), network)
    law, steps = log_prob.exp().detach(), torch.tensor([each for _, each in replayed])

    # The expected coefficient of each text over its partners, by the advantage's sign, which SPG reads.
    first, second = torch.cartesian_prod(rewards, rewards).T
    pairs = ADVANTAGES[method](torch.stack((first, second), 1))[:, 0].view(len(TEXTS), -1)
    sides = [(law[:, None] * law * part).sum(1) for part in (pairs.clamp(min=0.0), pairs.clamp(max=0.0))]
    repeats = draws if method in NOISY else 1
    number = 2 * len(TEXTS) * repeats
    batch = {
        "tokens": TEXTS.repeat(2 * repeats, 1),
        "maskable": torch.ones(number, LENGTH, dtype=torch.bool),
        "open": torch.ones(number, LENGTH, dtype=torch.bool),
        "step": steps.repeat(2 * repeats, 1),
        "seed": torch.arange(number),
        "inner": torch.zeros(number, dtype=torch.int64),
        "advantage": torch.cat(sides).repeat(repeats),
    }
    objective = METHODS[method](SAMPLERS[sampler])
    output = objective(network, PROCESS, batch, random=RowRandom.from_seed(0, number))
    update = -gradient(output.numerator, network)
    return float(update @ exact / update.norm() / exact.norm())


def main(seeds: int = 5) -> dict[str, dict[str, list[float]]]:
    """Print a table in Markdown.

    Args:
        seeds: how many random networks.

    Returns:
        The cosines, by method and sampler.
    """
    found: dict[str, dict[str, list[float]]] = {}
    print("| method | " + " | ".join(SAMPLERS) + " |\n|---|" + "---|" * len(SAMPLERS))
    for method in METHODS:
        found[method] = {name: [direction(method, name, seed) for seed in range(seeds)] for name in SAMPLERS}
        ranges = [f"{min(values):.6f} to {max(values):.6f}" for values in found[method].values()]
        short = [each if method == "trajectory_grpo" else _rounded(each) for each in ranges]
        print(f"| `{method}` | " + " | ".join(short) + " |", flush=True)
    return found


def _rounded(text: str) -> str:
    return " to ".join(f"{float(number):.2f}" for number in text.split(" to "))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many random networks")
    main(**vars(parser.parse_args()))
