"""Token shards that are streamed from local or cloud storage, for corpora beyond one disk; by litdata (extra `stream`).

    python -m llada.data.streaming token_cache/0123456789abcdef/train.tokens shards/train

A shard holds tokens only. A rank downloads the shards that it is about to read, cuts rows from them in an order that
follows from seed and epoch, and deletes them when the cache is full. The place in the epoch is in the checkpoint.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from llada.data.batch import TokenBatch
from llada.data.loader import check_loading
from llada.data.stream_loader import StreamLoader
from llada.data.token_file import TokenFile
from llada.data.tokenizers.tokenizer import Tokenizer, check_fingerprint
from llada.files.atomic import build_folder
from llada.files.json_object import read_object

ABOUT = "llada.json"
SHARD_BYTES = 1 << 26


def _litdata() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import litdata.streaming
    except ImportError as error:
        raise ImportError(
            "streaming needs the package litdata: pip install 'llada[stream]', with your torch and torchvision pinned "
            "by a constraint file, for litdata asks for the newest torchvision"
        ) from error
    return litdata


def write_shards(file: TokenFile, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a token file as shards of 4 bytes per token, complete or not at all; an existing folder is left as it is.

    Args:
        file: such as a data module's ``prepare_data`` leaves in its cache folder.
        folder: to be made; copy it to where it is to be streamed from.
        shard_bytes: per shard.

    Raises:
        ImportError: if litdata isn't installed.
    """
    litdata = _litdata()

    def build(partial: Path) -> None:
        loader = litdata.TokensLoader()
        cache = litdata.streaming.Cache(str(partial), chunk_bytes=shard_bytes, item_loader=loader)
        documents = (file.document(index) for index in range(file.num_documents))
        for index, tokens in enumerate(tokens for tokens in documents if len(tokens)):
            cache[index] = torch.from_numpy(tokens.astype("int32"))
        cache.done()
        cache.merge()
        about = {"tokenizer": file.fingerprint, "vocab_size": file.vocab_size, "num_tokens": file.num_tokens}
        (partial / ABOUT).write_text(json.dumps(about | {"bytes_per_token": file.bytes_per_token}))

    build_folder(Path(folder), build)


class StreamingDataModule(LightningDataModule):
    """Rows of one length from shards that `write_shards` made.

    Args:
        shards: of the training tokens: a folder, or an address that litdata knows, such as ``s3://bucket/train``.
        tokenizer: with which the tokens were made.
        max_length: L.
        batch_size: rows per batch and rank.
        val_shards: of the validation tokens, read in order; None for none.
        cache_folder: where downloaded shards are kept; None for litdata's default.
        cache_size: most that they may take, such as "100GB"; None for litdata's default.
        num_workers: processes that load batches.
        seed: of the order of rows.

    Raises:
        ValueError: if a size is less than 1.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import SentencePieceTraining, StreamingDataModule
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> data = StreamingDataModule("s3://bucket/train", words, max_length=1024, batch_size=8)
        >>> data.vocab_size, data.mask_token_id, data.val_dataloader()  # known before anything is read
        (280, 4, [])
    """

    def __init__(
        self,
        shards: str,
        tokenizer: Tokenizer,
        max_length: int,
        batch_size: int,
        val_shards: str | None = None,
        cache_folder: str | None = None,
        cache_size: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_loading(batch_size, num_workers)
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more; got {max_length}")
        self.shards, self.val_shards, self.tokenizer = shards, val_shards, tokenizer
        self.max_length, self.batch_size, self.num_workers, self.seed = max_length, batch_size, num_workers, seed
        self.cache_folder, self.cache_size = cache_folder, cache_size

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.vocab_size

    @property
    def mask_token_id(self) -> int:
        """The mask token."""
        return self.tokenizer.mask_token_id

    @property
    def val_bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the validation text per token; None where the shards aren't on this disk."""
        about = None if self.val_shards is None else _about(self.val_shards)
        return None if about is None else about["bytes_per_token"]

    def train_dataloader(self) -> StreamLoader:
        """Batches in an order that follows from seed and epoch, and that resumes in mid-epoch."""
        loader = self._loader(self.shards, shuffle=True)
        return StreamLoader(loader, 1 if self.trainer is None else self.trainer.world_size, self.trainer)

    def val_dataloader(self) -> DataLoader[TokenBatch] | list[Any]:
        """Rows in order, the last incomplete global batch left out; nothing if there is no validation data."""
        return [] if self.val_shards is None else self._loader(self.val_shards, shuffle=False)

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer's fingerprint, for the checkpoint."""
        return {"tokenizer": self.tokenizer.fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained with another tokenizer."""
        check_fingerprint(self.tokenizer, state_dict["tokenizer"], "the checkpoint")

    def _loader(self, shards: str, shuffle: bool) -> DataLoader[TokenBatch]:
        litdata = _litdata()
        if (about := _about(shards)) is not None:
            check_fingerprint(self.tokenizer, about["tokenizer"], shards)
        shard = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        if self.trainer is not None and shard is not None and shard["num_replicas"] != self.trainer.world_size:
            raise ValueError("streaming gives every rank rows of its own; tensor parallelism needs TextDataModule")
        options = {} if self.cache_size is None else {"max_cache_size": self.cache_size}
        dataset = litdata.StreamingDataset(
            shards,
            cache_dir=self.cache_folder,
            item_loader=litdata.TokensLoader(block_size=self.max_length),
            shuffle=shuffle,
            drop_last=True,
            seed=self.seed,
            **options,
        )
        loader: DataLoader[TokenBatch] = litdata.StreamingDataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=as_batch,
            pin_memory=torch.cuda.is_available(),
        )
        return loader


def as_batch(rows: list[Tensor]) -> TokenBatch:
    """Rows of equal length as a batch of which everything may be masked."""
    tokens = torch.stack(rows).long()
    return {"tokens": tokens, "maskable": torch.ones(tokens.shape, dtype=torch.bool)}


def _about(shards: str) -> dict[str, Any] | None:
    return read_object(Path(shards) / ABOUT, missing_ok=True) or None


def main() -> None:
    """Entry point of ``python -m llada.data.streaming``."""
    parser = argparse.ArgumentParser(prog="python -m llada.data.streaming", description="Shards out of a token file.")
    parser.add_argument("tokens", help="token file, such as train.tokens in a data module's cache folder")
    parser.add_argument("folder", help="folder to make")
    parser.add_argument("--shard_bytes", type=int, default=SHARD_BYTES)
    arguments = parser.parse_args()
    write_shards(TokenFile(arguments.tokens), arguments.folder, arguments.shard_bytes)


if __name__ == "__main__":
    main()
