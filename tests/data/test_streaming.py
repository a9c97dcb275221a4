"""Shards hold the tokens of their file, and a stream of them resumes in the middle of an epoch."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llada.data import SentencePieceTokenizer, StreamingDataModule, TokenFile, TokenFileWriter, write_shards

DOCUMENTS, ROW = 30, 16


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tokenizer: SentencePieceTokenizer) -> TokenFile:
    """Documents of 20 to 49 tokens in turn and an empty one; every place has a number of its own, modulo 300."""
    path = tmp_path_factory.mktemp("tokens") / "train.tokens"
    place = 0
    with TokenFileWriter(path, tokenizer.vocab_size, tokenizer.fingerprint) as writer:
        for index in range(DOCUMENTS):
            writer.add(np.arange(place, place + 20 + index) % 300, num_bytes=100)
            place += 20 + index
        writer.add([])
    return TokenFile(path)


@pytest.fixture(scope="module")
def shards(tokens: TokenFile) -> str:
    pytest.importorskip("litdata")
    folder = tokens.path.parent / "shards"
    write_shards(tokens, folder, shard_bytes=4 * 150)
    assert len(list(folder.glob("*.bin"))) > 5
    return str(folder)


def module(shards: str, tokenizer: SentencePieceTokenizer, **options: Any) -> StreamingDataModule:
    return StreamingDataModule(shards, tokenizer, ROW, batch_size=4, seed=3, val_shards=shards, **options)


def starts(batches: Any) -> list[list[int]]:
    return [batch["tokens"][:, 0].tolist() for batch in batches]


def test_rows_are_the_tokens_of_the_file(shards: str, tokenizer: SentencePieceTokenizer, tokens: TokenFile) -> None:
    """Rows are cut within a shard, so at most one row per shard is lost, and the last batch."""
    ordered = list(module(shards, tokenizer).val_dataloader())
    rows = torch.cat([batch["tokens"] for batch in ordered])
    assert rows.dtype == torch.int64
    assert all(batch["maskable"].all() for batch in ordered)
    assert ((rows[:, 1:] - rows[:, :-1]) % 300 == 1).all()  # consecutive places
    lost = tokens.num_tokens - rows.numel()
    assert 0 <= lost < (len(list(Path(shards).glob("*.bin"))) + 4) * ROW
    shuffled = torch.cat([batch["tokens"] for batch in module(shards, tokenizer).train_dataloader()])
    assert not torch.equal(shuffled, rows)
    assert len({tuple(row) for row in shuffled.tolist()} - {tuple(row) for row in rows.tolist()}) <= 4


def test_a_stream_resumes_in_mid_epoch(shards: str, tokenizer: SentencePieceTokenizer) -> None:
    straight = module(shards, tokenizer).train_dataloader()
    first, second = starts(straight), starts(straight)
    assert first != second  # another order in every epoch
    stopped = module(shards, tokenizer).train_dataloader()
    iterator = iter(stopped)
    taken = starts(next(iterator) for _ in range(5))
    resumed = module(shards, tokenizer).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert taken + starts(resumed) == first
    assert starts(resumed) == second


def test_bytes_per_token_and_the_tokenizer_are_known(
    shards: str, tokens: TokenFile, tokenizer: SentencePieceTokenizer, plain_tokenizer: SentencePieceTokenizer
) -> None:
    data = module(shards, tokenizer)
    assert data.val_bytes_per_token == tokens.bytes_per_token
    assert (data.vocab_size, data.mask_token_id) == (tokenizer.vocab_size, tokenizer.mask_token_id)
    data.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match="tokenizer"):
        module(shards, plain_tokenizer).train_dataloader()
    with pytest.raises(ValueError, match="tokenizer"):
        module(shards, plain_tokenizer).load_state_dict(data.state_dict())


def test_the_command(shards: str, tokens: TokenFile, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llada.data.streaming", tokens.path, tmp_path / "out", "--shard_bytes=100000"]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list((tmp_path / "out").glob("*.bin"))) == 1


def test_tensor_parallelism_is_refused(shards: str, tokenizer: SentencePieceTokenizer) -> None:
    data = module(shards, tokenizer)
    two_ranks_at_one_place = SimpleNamespace(world_size=2, distributed_sampler_kwargs={"num_replicas": 1, "rank": 0})
    data.trainer = two_ranks_at_one_place  # type: ignore[assignment]
    with pytest.raises(ValueError, match="tensor parallelism needs TextDataModule"):
        data.train_dataloader()


def test_what_is_wrong_is_named(
    tokens: TokenFile, tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="max_length must be 1 or more; got 0"):
        StreamingDataModule("shards", tokenizer, 0, 4)
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ImportError, match=r"pip install 'llada\[stream\]'"):
        write_shards(tokens, tokens.path.parent / "none")
