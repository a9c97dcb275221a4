"""How well held-out pairs are told apart: means over all pairs.

preference_accuracy     share of pairs whose chosen answer is preferred, ties counting half
preference_margin       by how much, nats (see `llada.objectives.preference_links`)
preference_margin_se    standard error of that mean, over pairs; it holds the noise of the draws, too
preference_noise_se     mean standard error of a pair's own margin, over the draws of noise
preference_kl           mean of B_ref(y+) - B(y+), nats: how far the model has gone from the reference there
preference_loss         mean loss of a pair, without the supervised term
"""

import torch
from torch import Tensor

from llada.metrics.nelbo import _Sums
from llada.objectives.preference import MARGIN, REPORTED, PreferenceOutput


class PreferenceMetric(_Sums):
    """Collects the outputs of a `llada.objectives.PreferenceObjective`, batch by batch; synchronised over ranks.

    Examples:
        >>> import torch
        >>> from llada.metrics import PreferenceMetric
        >>> from llada.objectives import PreferenceObjective, SimPO
        >>> from llada.process import MaskingProcess
        >>> from llada.random import RowRandom
        >>> uniform, metric = lambda tokens: torch.zeros(*tokens.shape, 4), PreferenceMetric()
        >>> pairs = {"tokens": torch.tensor([[0, 1]]), "rejected_tokens": torch.tensor([[0, 2]])}
        >>> output = PreferenceObjective(SimPO())(uniform, MaskingProcess(4), pairs, random=RowRandom.from_seed(0, 1))
        >>> metric.update(output)
        >>> sorted(metric.compute())
        ['preference_accuracy', 'preference_loss', 'preference_margin', 'preference_noise_se']
    """

    pairs: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._add_sums(("pairs", "squares", *REPORTED))

    def update(self, output: PreferenceOutput) -> None:
        """Add a batch.

        Args:
            output: what the objective says of it.
        """
        self.pairs += len(output.margins)
        self.squares += output.margins.square().sum()
        for name in REPORTED:
            value = getattr(self, name)
            setattr(self, name, value + output.sums.get(name, torch.nan))

    def compute(self) -> dict[str, Tensor]:
        """The numbers by name, () float64; what the objective doesn't give, or one pair alone can't, is left out."""
        found = {name: getattr(self, name) / self.pairs for name in REPORTED}
        mean = found[MARGIN]
        variance = (self.squares / self.pairs - mean.square()).clamp(min=0.0) / (self.pairs - 1)
        found[f"{MARGIN}_se"] = variance.sqrt() if self.pairs > 1 else torch.full_like(mean, torch.nan)
        return {name: value for name, value in found.items() if not torch.isnan(value)}
