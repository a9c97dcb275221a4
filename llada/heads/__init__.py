"""The vocabulary head's loss: cross-entropy in chunks, so that the logits of a batch never exist at once."""

from llada.heads.head_loss import Chunked, HeadLoss
from llada.heads.kernels import CutCrossEntropy, TorchLinear

__all__ = ["Chunked", "CutCrossEntropy", "HeadLoss", "TorchLinear"]
