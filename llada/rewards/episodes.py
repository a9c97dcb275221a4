"""What is known of written answers when the policy learns from them: the columns of a batch, read in one place.

tokens, attention_mask       prompt and answer
open                         (B, L) bool, positions that the sampler had to write
maskable                     (B, L) bool, the written tokens that count in the loss
step                         (B, L) int64, at which step of decoding a token was written; -1 where none was drawn
seed                         (B,) int64, of the row's decoding, and of the noise of its estimates
inner                        (B,) int64, how often the row has been learnt from before
advantage                    (B,) float64
old_log_prob                 (B, L) float64, nats, of each token under the policy that wrote it; may be absent
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llada.objectives.objective import Batch, columns, model_inputs
from llada.process import Process
from llada.random import RowRandom
from llada.rows import left_padding

WANTED = ("tokens", "maskable", "open", "step", "seed", "inner", "advantage")


@dataclass(frozen=True)
class Episodes:
    """Written answers; B rows of L columns.

    Attributes:
        tokens: (B, L) int64.
        open: (B, L) bool, what the sampler had to write.
        scored: (B, L) bool, the written tokens that count.
        steps: (B, L) int64, when each was written; -1 where none was drawn.
        seeds: (B,) int64.
        inner: (B,) int64.
        advantage: (B,) float64.
        old: (B, L) float64, nats, or None.
        inputs: for the model.

    Examples:
        >>> import torch
        >>> from llada.process import MaskingProcess
        >>> from llada.rewards import Episodes
        >>> tokens, answer = torch.tensor([[1, 0, 0]]), torch.tensor([[False, True, True]])
        >>> now = torch.zeros(1, dtype=torch.int64)
        >>> batch = {"tokens": tokens, "open": answer, "maskable": answer, "step": tokens * 0}
        >>> episodes = Episodes.of({**batch, "seed": now, "inner": now, "advantage": torch.tensor([1.0])})
        >>> episodes.canvas(MaskingProcess(2)), episodes.prompt
        (tensor([[1, 2, 2]]), tensor([[ True, False, False]]))
    """

    tokens: Tensor
    open: Tensor
    scored: Tensor
    steps: Tensor
    seeds: Tensor
    inner: Tensor
    advantage: Tensor
    old: Tensor | None
    inputs: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch | Tensor) -> "Episodes":
        """Read a batch.

        Raises:
            ValueError: if columns are missing.
        """
        given = columns(batch)
        missing = [name for name in WANTED if name not in given]
        if missing:
            raise ValueError(
                f"learning from rewards needs the column(s) {', '.join(missing)}, which llada.rewards.RewardDataModule "
                f"and llada.rewards.Rollout make; got {', '.join(given)}"
            )
        old = given.get("old_log_prob")
        return cls(
            tokens=given["tokens"],
            open=given["open"],
            scored=given["maskable"] & given["open"],
            steps=given["step"],
            seeds=given["seed"],
            inner=given["inner"],
            advantage=given["advantage"].double(),
            old=None if old is None else old.double(),
            inputs=model_inputs(given),
        )

    def only(self, rows: Tensor) -> "Episodes":
        """Some of the rows.

        Args:
            rows: (R,) int64, which.
        """
        parts = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **parts, inputs={name: value[rows] for name, value in self.inputs.items()})

    def canvas(self, process: Process) -> Tensor:
        """The rows before anything was written, (B, L) int64."""
        assert process.mask_token_id is not None
        return self.tokens.masked_fill(self.open, process.mask_token_id)

    @property
    def prompt(self) -> Tensor:
        """(B, L) bool, real tokens that weren't written."""
        real = self.inputs.get("attention_mask")
        return ~self.open if real is None else ~self.open & real.bool()

    @property
    def place(self) -> Tensor:
        """(B, L) int64, the number of an open position among those of its row."""
        return self.open.long().cumsum(1) - 1

    def noise(self, tag: int) -> "Noise":
        """Random numbers of the rows, other ones whenever the rows are learnt from again.

        Args:
            tag: what they are for.
        """
        streams = RowRandom.from_seed(self.seeds, len(self.tokens), self.tokens.device).fold_in(tag)
        random = RowRandom.from_seed(streams.keys + self.inner, len(self.tokens), self.tokens.device)
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        position = columns - left_padding(self.tokens, self.inputs.get("attention_mask"))
        return Noise(random, position.clamp(min=0))


@dataclass(frozen=True)
class Noise:
    """Random numbers of rows that don't depend on their padding.

    Attributes:
        random: streams of the rows.
        position: (B, L) int64, counted from the first real token.
    """

    random: RowRandom
    position: Tensor

    def at_positions(self, draw: int = 0) -> Tensor:
        """(B, L) float64 in (0, 1)."""
        return self.random.fold_in(draw).uniform_at(self.position)

    def of_rows(self, draw: int = 0, number: int = 1) -> Tensor:
        """(B, number) float64 in (0, 1)."""
        return self.random.fold_in(draw, -1).uniform(number)
