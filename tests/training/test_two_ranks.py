"""Two ranks log the numbers of the whole step, and stop or skip together where one of them meets a NaN."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import SCRIPTS, run_two_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks("train_two_ranks.py", folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_log_what_one_logs(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPTS))
    from train_two_ranks import fit

    alone = fit(tmp_path, 1)
    for found in (rank["plain"] for rank in ranks):
        assert set(found) == {
            "weights", "train/loss", "train/grad_norm", "train/masked_share", "train/tokens_seen",
        }  # fmt: skip
        torch.testing.assert_close(found.pop("weights"), alone["weights"], rtol=1e-8, atol=1e-8)
        assert found == pytest.approx({name: alone[name] for name in found}, rel=1e-6)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("loss", "the training loss became nan at step 2 (batch 2 of the epoch) on rank(s) 1 of 2; nothing was"),
        (
            "gradient",
            "the gradient norm became nan at step 2 (up to batch 2 of the epoch), with a finite loss;",
        ),
    ],
)
def test_both_stop_with_the_same_words(ranks: list[dict[str, Any]], folder: Path, case: str, message: str) -> None:
    first, second = (rank[case]["message"] for rank in ranks)
    assert first == second
    assert first.startswith(message)
    assert sorted(path.name for path in (folder / case).glob("*.ckpt")) == [
        "epoch=0-step=1.ckpt",
        "epoch=0-step=2.ckpt",
    ]


def test_both_skip_together(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["skipped"] for rank in ranks)
    assert torch.equal(first["weights"], second["weights"])
    assert torch.isfinite(first["weights"]).all()
    assert first["train/skipped_steps"] == second["train/skipped_steps"] == 1.0
