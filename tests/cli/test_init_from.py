"""``llada fit --init_from FOLDER``: a released folder as the start of a run, with every option that reads one."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.released.options import LoadOptions
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.training.initial_weights import InitialWeights
from tests.cli.conftest import CONFIGS, QUIET, Command, checkpoint_in
from tests.tiny_checkpoint import HEADS, HIDDEN, LAYERS, MASK, VOCAB_SIZE, WIDTH, write_checkpoint

SIZES: dict[str, Any] = {"width": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "hidden_width": HIDDEN}


def edit(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def start(folder: Path, model: DiffusionLM, **options: Any) -> None:
    trainer: Any = SimpleNamespace(datamodule=None)
    InitialWeights(str(folder), LoadOptions.of(**options)).setup(trainer, model, "fit")


def run_model(**options: Any) -> DiffusionLM:
    return DiffusionLM(BidirectionalTransformer(VOCAB_SIZE, **{**SIZES, **options}), MaskingProcess(MASK))


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"mask_token_id": 3}, {"mask": "2"}, "the mask token of .* is 3, that of this run 2; .* or --mask 2"),
        ({"rms_norm_eps": 1e-6}, {"backbone": ["norm_eps=1e-05"]}, "has norm_eps=1e-06, .* --backbone norm_eps=1e-05"),
        ({"rope_ratio": 2}, {"ignore_config_field": ["rope_ratio"]}, "--ignore_config_field rope_ratio"),
    ],
)
def test_what_computes_something_else_is_refused_with_the_switch(
    fields: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, model = write_checkpoint(tmp_path / "m"), run_model()
    reference = DiffusionLM.from_pretrained(folder)
    edit(folder, **fields)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        start(folder, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    start(folder, model, **options)
    ids = torch.arange(9)[None]
    assert torch.equal(model.eval()(ids), reference(ids))


def test_a_folder_without_a_mask_takes_that_of_the_run(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    for file in folder.glob("*token*"):
        file.unlink()
    edit(folder, mask_token_id=None)
    model = run_model(max_length=16)  # shorter rows are the run's own choice
    start(folder, model)
    assert model.process.mask_token_id == MASK
    with pytest.raises(ValueError, match=r"has shift=False, but model\.backbone has True; .*--backbone shift=true"):
        start(folder, run_model(shift=True))


def test_fit_begins_with_a_folder(llada: Command, story: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    expected = DiffusionLM.from_pretrained(folder).state_dict()
    edit(folder, rope_ratio=2, rms_norm_eps=1e-6)
    options: list[object] = ["--config", CONFIGS / "pretrain_llada.yaml", *QUIET, "--trainer.max_steps=1"]
    options += ["--data.source=TextFiles", f"--data.source.paths={story}", "--data.source.split_on_blank_lines=true"]
    options += ["--data.tokenizer=llada.data.JsonTokenizer", f"--data.tokenizer.path={folder}"]
    options += ["--data.max_length=16", "--data.batch_size=4", "--trainer.limit_val_batches=1"]
    options += [f"--model.backbone.{name}={value}" for name, value in SIZES.items()]
    run = llada("fit", *options, "--mask=2")
    assert (run.code, "--mask tells how the weights of --init_from are read" in run.err) == (1, True)
    options += [f"--init_from={folder}", "--model.optimizer.lr=0", "--backbone=norm_eps=1e-05", "--backbone=bias=false"]
    run = llada("fit", *options, "--mask=<|mdm_mask|>", "--ignore_config_field=rope_ratio")
    assert run.code == 0, run.err
    found = read_checkpoint(checkpoint_in(Path.cwd()))["state_dict"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_every_option_of_loading_is_one_of_fit(llada: Command) -> None:
    listed = set(re.findall(r"--(\w+)", llada("fit", "--help").out))
    assert {"mask", "revision", "adapter", "ignore_config_field", "backbone", "init_from"} <= listed
