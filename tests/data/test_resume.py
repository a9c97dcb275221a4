"""A run that was stopped and resumed is the run that wasn't: the same batches, and the same weights bit for bit."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from llada import DiffusionLM
from llada.backbones import BidirectionalTransformer
from llada.data import (
    FirstFitDecreasing,
    InstructionDataModule,
    JsonLines,
    PromptAnswers,
    SentencePieceTokenizer,
    StreamingDataModule,
    TextDataModule,
    TextFiles,
    TokenFile,
    write_shards,
)
from llada.process import MaskingProcess

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Watch(Callback):
    """Writes down what the batches hold, and saves when the training has ended."""

    def __init__(self, path: Path, seen: list[int]) -> None:
        self.path, self.seen = path, seen

    def on_train_batch_start(self, trainer: Trainer, pl_module: DiffusionLM, batch: Any, batch_idx: int) -> None:
        weights = torch.arange(1, batch["tokens"].numel() + 1)
        self.seen.append(int((batch["tokens"].flatten() * weights).sum()))

    def on_train_end(self, trainer: Trainer, pl_module: DiffusionLM) -> None:
        trainer.save_checkpoint(self.path / "end.ckpt")


@dataclass
class Run:
    """How to train, and on what.

    ``folder`` is where checkpoints go.
    """

    data: Any
    folder: Path
    vocab_size: int
    options: dict[str, Any]

    def fit(
        self, steps: int, resume: Path | None = None, data: LightningDataModule | None = None, **options: Any
    ) -> tuple[list[int], list[Tensor]]:
        torch.manual_seed(0)
        backbone = BidirectionalTransformer(
            vocab_size=self.vocab_size, width=8, num_layers=1, num_heads=2, hidden_width=16, max_length=64
        )
        model = DiffusionLM(backbone, MaskingProcess(4), optimizer=partial(torch.optim.Adam, lr=0.01))
        seen: list[int] = []
        saving = ModelCheckpoint(self.folder, "last", every_n_train_steps=max(steps, 0), enable_version_counter=False)
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            callbacks=[Watch(self.folder, seen), saving],
            **{**self.options, **options},
        )
        trainer.fit(model, self.data() if data is None else data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(self.folder / "after.ckpt")
        return seen, [parameter.detach().clone() for parameter in model.parameters()]


def text_data(tokenizer: SentencePieceTokenizer, folder: Path, **options: Any) -> TextDataModule:
    if not (path := folder / "stories.txt").exists():
        path.write_text("\n\n".join(f"the boy saw boat {number} on the river" for number in range(58)))
    source = TextFiles(str(path), split_on_blank_lines=True)
    settings = {"max_length": 32, "batch_size": 4, "val_fraction": 0.0, "cache_folder": str(folder / "text"), "seed": 1}
    return TextDataModule(source, tokenizer, **{**settings, **options})


def packed_data(tokenizer: SentencePieceTokenizer, folder: Path, **options: Any) -> InstructionDataModule:
    if not (path := folder / "chats.jsonl").exists():
        path.write_text("".join(f'{{"prompt": "boat {n}", "answer": "{"red " * (1 + n % 5)}"}}\n' for n in range(60)))
    source = PromptAnswers(JsonLines(str(path)))
    settings = {"val_fraction": 0.0, "cache_folder": str(folder / "chats"), "packing": FirstFitDecreasing()}
    return InstructionDataModule(source, tokenizer, 64, 2, **{**settings, **options})


def streamed_data(tokenizer: SentencePieceTokenizer, folder: Path, **options: Any) -> StreamingDataModule:
    pytest.importorskip("litdata")
    text = text_data(tokenizer, folder)
    text.prepare_data()
    write_shards(TokenFile(text.folder / "train.tokens"), folder / "shards", shard_bytes=4 * 400)
    return StreamingDataModule(str(folder / "shards"), tokenizer, 16, batch_size=8, seed=3, **options)


KINDS = {"text": text_data, "packed": packed_data, "streamed": streamed_data}


def run_of(kind: str, tokenizer: SentencePieceTokenizer, folder: Path, **options: Any) -> Run:
    return Run(partial(KINDS[kind], tokenizer, folder), folder, tokenizer.vocab_size, options)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


# Kind of data, and accumulated batches.
CASES = [("text", 1), ("text", 2), ("packed", 2), ("streamed", 1), ("streamed", 2)]
FILES = ["last.ckpt", "end.ckpt", "after.ckpt"]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(
    request: pytest.FixtureRequest, tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, list[int], list[Tensor], list[int]]:
    """A run over two epochs, and the steps at which it is stopped: in mid-epoch, at an epoch's end, in mid-epoch."""
    kind, window = request.param
    folder = tmp_path_factory.mktemp(kind)
    run = run_of(kind, tokenizer, folder, accumulate_grad_batches=window)
    length = -(-len(run.data().train_dataloader()) // window) if kind == "streamed" else -(-7 // window)
    stops = [length // 2, length, length + length // 2, 2 * length + 1]
    return run, *run.fit(stops[-1]), stops


@pytest.mark.parametrize("file", FILES)
def test_more_steps_later(case: tuple[Run, list[int], list[Tensor], list[int]], file: str) -> None:
    run, whole, weights, stops = case
    seen, last = run.fit(stops[0])
    for end in stops[1:]:
        more, last = run.fit(end, run.folder / file)
        seen += more
    assert seen == whole
    assert same(last, weights)


def test_more_epochs_later(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    """An epoch that `max_steps` ended in the middle counts as one when it is over."""
    run = run_of("text", tokenizer, tmp_path)
    whole, weights = run.fit(-1, max_epochs=3)
    assert len(whole) == 21
    seen, _ = run.fit(4)
    more, last = run.fit(-1, tmp_path / "end.ckpt", max_epochs=3)
    assert seen + more == whole
    assert same(last, weights)
    seen, _ = run.fit(-1, max_epochs=1)
    more, last = run.fit(-1, tmp_path / "after.ckpt", max_epochs=3)
    assert seen + more == whole
    assert same(last, weights)


@pytest.mark.parametrize("limit", [5, 0.6])
def test_an_epoch_that_the_trainer_cuts_short_is_over(
    limit: float, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    run = run_of("text", tokenizer, tmp_path, limit_train_batches=limit)
    whole, weights = run.fit(12)
    seen, _ = run.fit(int(7 * limit) if isinstance(limit, float) else limit)
    more, last = run.fit(12, tmp_path / "end.ckpt")
    assert seen + more == whole
    assert same(last, weights)


def test_another_loader_goes_on_at_the_same_place_or_refuses(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    run = run_of("text", tokenizer, tmp_path)
    whole, weights = run.fit(9)
    seen, _ = run.fit(4)
    more, last = run.fit(9, tmp_path / "end.ckpt", run.data(num_workers=1))
    assert seen + more == whole
    assert same(last, weights)
    seen, _ = run.fit(4)
    with pytest.raises(ValueError, match="rows_per_step=2, but had 4"):
        run.fit(9, tmp_path / "end.ckpt", run.data(batch_size=2))


def test_one_data_module_serves_several_runs(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    run = run_of("text", tokenizer, tmp_path)
    data = run.data()
    whole, weights = run.fit(9, data=data)
    again, _ = run.fit(4, data=data)
    more, last = run.fit(9, tmp_path / "end.ckpt", data)
    assert again + more == whole
    assert same(last, weights)
