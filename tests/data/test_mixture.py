"""Sources come in their shares, go through all their rows before any comes again, and are resumed exactly."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from scipy.stats import chi2

from llada.data import Mixture, SentencePieceTokenizer, SentencePieceTraining, TextDataModule, TextFiles
from llada.data.loader import TrainingSampler
from llada.data.mixture import MixedRows
from tests.data.test_resume import Run, same


class Numbers:
    """Row i of part k is the number 1000 k + i."""

    def __init__(self, part: int, size: int) -> None:
        self.part, self.size = part, size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: list[int]) -> Any:
        return {"tokens": torch.tensor(indices)[:, None] + 1000 * self.part}


def mixed(sizes: list[int], counts: list[int]) -> MixedRows:
    return MixedRows([Numbers(part, size) for part, size in enumerate(sizes)], counts, seed=3)  # type: ignore[misc]


def epoch_of(rows: MixedRows, epoch: int) -> list[int]:
    sampler = TrainingSampler(rows, 1, seed=3)
    sampler.set_epoch(epoch)
    return rows.__getitems__(list(sampler))["tokens"][:, 0].tolist()


@settings(max_examples=10)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 20)), min_size=1, max_size=3),
    st.integers(1, 3),
)
def test_shares_are_exact_and_no_row_comes_again_too_early(parts: list[tuple[int, int]], epochs: int) -> None:
    rows = mixed([size for size, _ in parts], [count for _, count in parts])
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        batch = epoch_of(rows, epoch)
        shares = Counter(row // 1000 for row in batch)
        assert [shares[part] for part in range(len(parts))] == [count for _, count in parts]
        seen.update(batch)
    for part, (size, count) in enumerate(parts):
        times = [seen[1000 * part + row] for row in range(size)]
        assert sum(times) == epochs * count
        assert max(times) - min(times) <= 1


def test_sources_are_mixed_evenly_over_an_epoch() -> None:
    """Chi-square of the parts in tenths of 40 epochs; fixed seed, false alarm 1e-4. Sources in turn must fail."""
    counts = np.array([20, 50, 130])

    def p_value(order: np.ndarray) -> float:
        table = np.array([[np.sum(tenth == part) for part in range(3)] for tenth in np.array_split(order, 10)])
        expected = 40 * 20 * counts / 200
        return float(chi2.sf(((table - expected) ** 2 / expected).sum(), 18))

    rows = mixed([30, 30, 30], counts.tolist())
    order = np.stack([np.array(epoch_of(rows, epoch)) // 1000 for epoch in range(40)]).T
    assert p_value(order) > 1e-4
    assert p_value(np.sort(order, axis=0)) < 1e-4


def source(tokenizer: Any, folder: Path, word: str, lines: int, **options: Any) -> TextDataModule:
    path = folder / f"{word}.txt"
    path.write_text("\n\n".join(f"the {word} {number} on the river" for number in range(lines)))
    defaults = {"max_length": 16, "batch_size": 1, "val_fraction": 0.2, "cache_folder": str(folder / "cache")}
    files = TextFiles(str(path), split_on_blank_lines=True)
    return TextDataModule(files, tokenizer, **{**defaults, **options})


def mixture(tokenizer: Any, folder: Path, **options: Any) -> Mixture:
    parts = [source(tokenizer, folder, "boat", 60), source(tokenizer, folder, "boy", 90)]
    return Mixture(parts, **{"batch_size": 4, "seed": 2, **options})


def prepared(*args: Any, **options: Any) -> Mixture:
    data = mixture(*args, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_run_on_a_mixture_is_resumed_exactly(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    data = partial(mixture, tokenizer, tmp_path, weights=[3.0, 1.0], rows_per_epoch=28)
    run = Run(data, tmp_path, tokenizer.vocab_size, {})
    whole, weights = run.fit(17)
    seen, _ = run.fit(3)
    for end in (10, 17):
        more, last = run.fit(end, tmp_path / "end.ckpt")
        seen += more
    assert seen == whole
    assert same(last, weights)
    with pytest.raises(ValueError, match=r"an epoch has \[14, 14\] rows of the sources, but had \[21, 7\]"):
        run.fit(18, tmp_path / "end.ckpt", data(weights=[1.0, 1.0]))


def test_weights_and_epochs_give_rows(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    data = prepared(tokenizer, tmp_path, weights=[2, 1])
    sizes = [len(part.rows("train")) for part in data.sources]
    total = sum(sizes)
    assert data.counts() == [round(total * 2 / 3), total - round(total * 2 / 3)]
    data.weights, data.epochs = None, [0.5, 3.0]
    assert data.counts() == [round(sizes[0] / 2), 3 * sizes[1]]
    vals = [part.rows("val") for part in data.sources]
    tokens = torch.cat([batch["tokens"] for batch in data.val_dataloader()])
    assert torch.equal(tokens, torch.cat([rows.__getitems__(list(range(len(rows))))["tokens"] for rows in vals]))
    assert min(part.val_bytes_per_token for part in data.sources) <= data.val_bytes_per_token
    assert data.val_bytes_per_token <= max(part.val_bytes_per_token for part in data.sources)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "give either weights"),
        ({"weights": [1, 1], "epochs": [1, 1]}, "give either weights"),
        ({"epochs": [1, 1], "rows_per_epoch": 5}, "give either weights"),
        ({"weights": [1]}, r"2 sources need as many positive weights or epochs; got \[1\]"),
        ({"weights": [1, 0]}, "positive"),
        ({"epochs": [1, float("nan")]}, "positive"),
    ],
)
def test_what_is_no_mixture_is_refused(
    options: dict[str, Any], reason: str, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        mixture(tokenizer, tmp_path, **options)


def test_sources_of_different_kinds_are_refused(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    parts = [source(tokenizer, tmp_path, "boat", 60), source(tokenizer, tmp_path, "boy", 90, max_length=8)]
    with pytest.raises(ValueError, match="same max_length"):
        Mixture(parts, 4, weights=[1, 1])
    other = SentencePieceTraining(300)
    parts = [source(other, tmp_path, "boat", 60), source(other, tmp_path, "boy", 90)]
    data = Mixture(parts, 4, weights=[1, 1])
    data.prepare_data()
    with pytest.raises(ValueError, match="tokenizer"):
        data.setup("fit")


def test_a_configuration_may_name_it(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    text = {"tokenizer": {"class_path": "SentencePieceTraining", "init_args": {"vocab_size": 300}}}
    parts = [
        {"class_path": "TextDataModule", "init_args": {**text, "source": source, "max_length": 8, "batch_size": 1}}
        for source in ({"class_path": "TextFiles", "init_args": {"paths": name}} for name in ("a.txt", "b.txt"))
    ]
    given = {"class_path": "llada.data.Mixture", "init_args": {"sources": parts, "batch_size": 2, "epochs": [1, 2]}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    made = parser.instantiate_classes(parser.parse_object({"data": given})).data
    assert isinstance(made, Mixture)
    assert [part.source.paths for part in made.sources] == ["a.txt", "b.txt"]
