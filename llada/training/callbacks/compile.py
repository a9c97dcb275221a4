"""The switch for `torch.compile`."""

from lightning.pytorch import Callback, LightningModule, Trainer

from llada.training.compiling import compile_blocks


class Compile(Callback):
    """Compiles the blocks of the backbone when a run begins, before they are split over ranks.

    The first steps take longer, on a CPU by a minute or more. The objective and the head aren't compiled. Checkpoints
    are the same with and without it.

    Args:
        dynamic: compile for any number of tokens at once, as batches of padded or packed rows have; False: for each
            number anew; None: PyTorch's choice.
        backend: of `torch.compile`.
        mode: of `torch.compile`, such as "max-autotune".

    Examples:
        >>> from llada.training.callbacks import Compile
        >>> callback = Compile(dynamic=True)
    """

    def __init__(self, dynamic: bool | None = True, backend: str = "inductor", mode: str | None = None) -> None:
        self.dynamic, self.backend, self.mode = dynamic, backend, mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile them, once.

        Raises:
            ValueError: if the model has no backbone with blocks.
        """
        backbone = getattr(pl_module, "backbone", pl_module)
        compile_blocks(backbone, dynamic=self.dynamic, backend=self.backend, mode=self.mode)
