"""A noise schedule of your own: one class with one method, good for training, scoring and sampling.

    python examples/own_schedule.py
    llada fit --config examples/configs/own_parts.yaml      (names the class by its class_path)

The bound on the likelihood doesn't depend on the schedule. What does: the variance of its estimate, and how many tokens
a sampler on a time grid uncovers in each step. Both are shown on a toy language, whose entropy is known, with its exact
denoiser in place of a model.
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from llada import NELBO, LinearSchedule, MaskingProcess, NoiseSchedule, RowRandom
from llada.data import ToyLanguage
from llada.samplers import ancestral


@dataclass(frozen=True)
class KumaraswamySchedule(NoiseSchedule):
    """alpha(t) = (1 - t^a)^b; a = b = 1 is the linear schedule.

    That is all a schedule needs. The loss weight -alpha'(t) / (1 - alpha(t)) comes from automatic differentiation, and
    `NoiseSchedule` says what else can be overridden with a closed form.

    Args:
        a: above 1 keeps the data clean for longer.
        b: above 1 spends more time near full noise.
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if self.a <= 0 or self.b <= 0:
            raise ValueError(f"a and b must be above 0; got a={self.a} and b={self.b}")

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t^a)^b."""
        return (1.0 - t**self.a) ** self.b


def main(num_rows: int) -> None:
    """Estimate the bound, and watch the pace of sampling, under three schedules."""
    language = ToyLanguage.markov(vocab_size=3, length=6, concentration=0.5)
    rows = language.sample(num_rows, torch.Generator().manual_seed(0))
    print(f"entropy {language.entropy():.4f} nats per row; the bound must be the same under every schedule\n")
    print(f"{'schedule':<36} {'bound':<18} deviation of a row   tokens written in steps 1 to 6")
    for schedule in (LinearSchedule(), KumaraswamySchedule(a=2.0), KumaraswamySchedule(b=2.0)):
        process = MaskingProcess(language.mask_token_id, schedule)
        nelbo = NELBO()(language.oracle, process, rows, random=RowRandom.from_seed(1, num_rows)).nelbo
        # What a row costs in excess of its own -log p is noise of the estimate alone.
        excess = nelbo + language.log_prob(rows)
        error = float(nelbo.std() / num_rows**0.5)
        canvas = torch.full((1000, language.length), language.mask_token_id)
        steps = ancestral(steps=6).iterate(language.oracle, canvas, process)
        written = " ".join(f"{float(step.changed.sum(1).double().mean()):.2f}" for step in steps)
        print(f"{schedule!s:<36} {nelbo.mean():.4f} +- {error:.4f}  {excess.std():<20.2f} {written}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_rows", type=int, default=20_000, help="rows to score")
    main(parser.parse_args().num_rows)
