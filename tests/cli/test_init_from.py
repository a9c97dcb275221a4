"""``llada fit --init_from FOLDER``: a released folder as the start of a run, with every option that reads one."""

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.released import pretrained
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.shards import read_tensors
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


def bytes_alive() -> int:
    """Of all tensors with storage that Python knows of. What a compiled or transformed test may leave has none."""
    plain = torch.Tensor, torch.nn.Parameter
    tensors = [value for value in gc.get_objects() if type(value) in plain and not value.is_meta]
    tensors = [tensor for tensor in tensors if not torch._C._functorch.is_functorch_wrapped_tensor(tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_the_weights_go_into_the_network_of_the_run_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = write_checkpoint(tmp_path / "m"), run_model()
    expected = DiffusionLM.from_pretrained(folder).state_dict()
    largest = max(tensor.nbytes for tensor in expected.values())
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    alive: list[int] = []

    def watched(stored: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for number, (name, tensor) in enumerate(read_tensors(stored)):
            if number in (1, len(stored) - 1):  # gathering all objects takes a while
                alive.append(bytes_alive())
            yield name, tensor

    monkeypatch.setattr(pretrained, "read_tensors", watched)
    before = bytes_alive()
    start(folder, model)
    assert len(alive) == 2
    assert max(alive) <= before + 2 * largest  # one that is read, and one that goes
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == places
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def options_of(folder: Path, story: Path) -> list[object]:
    options: list[object] = ["--config", CONFIGS / "pretrain_llada.yaml", *QUIET, "--trainer.max_steps=1"]
    options += ["--data.source=TextFiles", f"--data.source.paths={story}", "--data.source.split_on_blank_lines=true"]
    options += ["--data.tokenizer=llada.data.JsonTokenizer", f"--data.tokenizer.path={folder}"]
    options += ["--data.max_length=16", "--data.batch_size=4", "--trainer.limit_val_batches=1"]
    return options + [f"--model.backbone.{name}={value}" for name, value in SIZES.items()]


def test_fit_begins_with_a_folder(llada: Command, story: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    expected = DiffusionLM.from_pretrained(folder).state_dict()
    edit(folder, rope_ratio=2, rms_norm_eps=1e-6)
    options = options_of(folder, story)
    run = llada("fit", *options, "--mask=2")
    assert (run.code, "--mask tells how the weights of --init_from are read" in run.err) == (1, True)
    options += [f"--init_from={folder}", "--model.optimizer.lr=0", "--backbone=norm_eps=1e-05", "--backbone=bias=false"]
    run = llada("fit", *options, "--mask=<|mdm_mask|>", "--ignore_config_field=rope_ratio")
    assert run.code == 0, run.err
    found = read_checkpoint(checkpoint_in(Path.cwd()))["state_dict"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_fit_trains_additions_to_quantised_weights_and_goes_on(llada: Command, story: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft isn't installed")
    pytest.importorskip("bitsandbytes", reason="the extra quantised isn't installed")
    folder = write_checkpoint(tmp_path / "m")
    options = [*options_of(folder, story), f"--init_from={folder}"]
    run = llada("fit", *options, "--quantise=nf4")
    assert (run.code, "quantised matrices can't be trained" in run.err) == (1, True)
    options += ["--trainer.callbacks+=LoRA", "--trainer.callbacks.rank=2", "--model.optimizer.lr=0.1"]
    run = llada("fit", *options, "--quantise=nf4", "--adapter=there")
    assert (run.code, "go on from it: --trainer.callbacks+=LoRA --trainer.callbacks.adapter there" in run.err) == (1, 1)
    run = llada("fit", *options, "--quantise=nf4")
    assert run.code == 0, run.err
    found = read_checkpoint(checkpoint_in(Path.cwd()))
    base = DiffusionLM.from_pretrained(folder, quantise="nf4").state_dict()
    name = "backbone.blocks.0.attention.q_proj.weight"
    change = found["state_dict"][name] - base[name]
    assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-3)) == 2
    again = [option for option in options if option != "--trainer.max_steps=1"]
    run = llada("fit", *again, "--trainer.max_steps=2", "--quantise=int8", "--ckpt_path=last")
    assert (run.code, "quantised alike: --init_from and --quantise" in run.err) == (1, True)
    run = llada("fit", *again, "--trainer.max_steps=2", "--quantise=nf4", "--ckpt_path=last")
    assert (run.code, "at step 2" in run.out) == (0, True), run.err


def test_every_option_of_loading_is_one_of_fit(llada: Command) -> None:
    listed = set(re.findall(r"--(\w+)", llada("fit", "--help").out))
    assert {"mask", "revision", "adapter", "ignore_config_field", "backbone", "quantise", "init_from"} <= listed
