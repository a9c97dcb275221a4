"""``python -m llada.checkpoints.consolidate`` makes one file of a folder that several ranks wrote."""

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.checkpoints.consolidate import REST, WEIGHTS, consolidate
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from tests.processes import run_python


def write(folder: Path) -> DiffusionLM:
    torch.manual_seed(0)
    model = DiffusionLM(BidirectionalTransformer(11, width=8, num_layers=1, num_heads=2), MaskingProcess(10), seed=5)
    save({WEIGHTS: model.state_dict()}, checkpoint_id=folder)
    torch.save({PARTS_KEY: stored_parts(model), "epoch": 1, "global_step": 7}, folder / REST)
    return model.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command(tmp_path: Path) -> None:
    model = write(tmp_path / "model.ckpt")
    run = run_python("-m", "llada.checkpoints.consolidate", "model.ckpt", "one.ckpt", cwd=tmp_path)
    assert run.returncode == 0, run.output
    again = DiffusionLM.load_from_checkpoint(tmp_path / "one.ckpt")
    assert again.seed == 5
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"python -m llada\.checkpoints\.consolidate .*model\.ckpt model\.one-file"):
        DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_failing_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.ckpt")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("llada.checkpoints.consolidate.torch.save", fail)
    with pytest.raises(OSError, match="disk full"):
        consolidate(tmp_path / "model.ckpt", tmp_path / "one.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
