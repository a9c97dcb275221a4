"""DiffusionLM under the Lightning Trainer: it learns, it reloads, it resumes, and it says what is wrong."""

import pickle
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.checkpoint import read_checkpoint
from llada.heads.head_loss import Chunked
from llada.module import DiffusionLM
from llada.noise import LinearSchedule
from llada.objectives import NELBO, PerRow, RandomLength
from llada.process import MaskingProcess
from llada.samplers import Blocks, Confidence, Proposal, Quota, UnmaskingSampler, canvas
from llada.training.lr_schedulers import WarmupCosine, WarmupStableDecay

VOCAB, LENGTH = 12, 8
MASK = VOCAB - 1


def build(**parts: Any) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, width=32, num_layers=2, num_heads=2, tie_embeddings=True)
    return DiffusionLM(backbone, MaskingProcess(MASK), **{"optimizer": partial(torch.optim.AdamW, lr=3e-3), **parts})


def pattern(rows: int = 64) -> DataLoader:
    """Rows that count upwards from a random start: every token follows from any other."""
    start = torch.arange(rows) % (VOCAB - 1)
    tokens = (start[:, None] + torch.arange(LENGTH)) % (VOCAB - 1)
    return StatefulDataLoader([{"tokens": row} for row in tokens], batch_size=16)


def trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return Trainer(**{**defaults, **options})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionLM, Path]:
    folder = tmp_path_factory.mktemp("learned")
    schedule = partial(WarmupCosine, warmup_steps=10, total_steps=240, final_factor=0.1)
    model = build(optimizer=partial(torch.optim.AdamW, lr=6e-3), lr_scheduler=schedule)
    run = trainer(folder, max_epochs=60)
    run.fit(model, pattern())
    run.save_checkpoint(folder / "model.ckpt")
    return model.eval(), folder / "model.ckpt"


def test_it_learns_a_pattern_and_fills_it_in(learned: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    model, _ = learned
    results = trainer(tmp_path).validate(model, pattern(), verbose=False)[0]
    # The rows have the entropy ln 11 = 2.4 nats, 0.30 per token; an untrained model is at ln 12 = 2.5 per token.
    assert 0.25 < results["val/nll"] < 0.5
    assert results["val/nll_se"] < 0.15
    assert results["val/perplexity"] == pytest.approx(2.718281828 ** results["val/nll"], rel=1e-5)
    assert results["val/nll_at_noise_0.2"] < results["val/nll_at_noise_1.0"]
    tokens = torch.tensor([[3, MASK, MASK, 6, MASK, MASK, MASK, MASK]])
    assert model.generate(tokens).tokens.tolist() == [[3, 4, 5, 6, 7, 8, 9, 10]]


def test_validation_repeats_itself(learned: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    first, second = (trainer(tmp_path).validate(learned[0], pattern(), verbose=False)[0] for _ in range(2))
    assert first == second


def test_test_and_predict(learned: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    model, _ = learned
    assert trainer(tmp_path).test(model, pattern(), verbose=False)[0]["test/nll"] < 0.5
    made = canvas([[1, 2], [5]], 6, mask_token_id=MASK, pad_token_id=0)
    rows = [{"tokens": t, "attention_mask": a} for t, a in zip(made.tokens, made.attention_mask, strict=True)]
    (sample,) = trainer(tmp_path).predict(model, DataLoader(rows, batch_size=2))
    assert sample.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [0, 5, 6, 7, 8, 9, 10, 0]]


def test_calling_the_model_gives_logits(learned: tuple[DiffusionLM, Path]) -> None:
    tokens = torch.randint(VOCAB, (2, 5))
    attention_mask = torch.tensor([[True] * 5, [False, False, True, True, True]])
    logits = learned[0](tokens, attention_mask=attention_mask)
    assert logits.shape == (2, 5, VOCAB)
    torch.testing.assert_close(logits[1, 2:], learned[0](tokens[1:, 2:])[0])


def test_a_checkpoint_rebuilds_its_model(learned: tuple[DiffusionLM, Path]) -> None:
    model, path = learned
    again = DiffusionLM.load_from_checkpoint(path)
    assert again.process == model.process
    assert again.objective == model.objective
    assert again.sampler == model.sampler
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.backbone.head.weight is again.backbone.embedding.weight
    made: Any = again.configure_optimizers()
    assert isinstance(made["optimizer"], torch.optim.AdamW)
    assert made["optimizer"].param_groups[0]["initial_lr"] == 6e-3


def test_every_part_survives_the_checkpoint(tmp_path: Path) -> None:
    model = build(
        objective=RandomLength(NELBO(normaliser=PerRow()), 0.2),
        sampler=UnmaskingSampler(
            Quota(3),
            Confidence(without=(1, 2)),
            proposal=Proposal(0.5, top_p=0.9),
            window=Blocks(2, stop_token_ids=4),
        ),
        lr_scheduler=partial(WarmupCosine, warmup_steps=2, total_steps=9),
        seed=7,
    )
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, pattern())
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt")
    assert (again.objective, again.sampler, again.seed) == (model.objective, model.sampler, 7)
    assert again.lr_scheduler.keywords == {"warmup_steps": 2, "total_steps": 9}
    replaced = DiffusionLM.load_from_checkpoint(tmp_path / "model.ckpt", seed=8)
    assert replaced.seed == 8


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def test_foreign_and_damaged_checkpoints_are_refused(
    learned: tuple[DiffusionLM, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"damaged|refused"):
        DiffusionLM.load_from_checkpoint(path)
    torch.save({"state_dict": {}, "llada": Evil()}, path)
    with pytest.raises(ValueError, match="pickled Python objects"):
        DiffusionLM.load_from_checkpoint(path)
    assert "must not run" not in capsys.readouterr().out
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="not a checkpoint of this library"):
        DiffusionLM.load_from_checkpoint(path)
    whole = learned[1].read_bytes()
    for share in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match="damaged"):
            DiffusionLM.load_from_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        DiffusionLM.load_from_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize(
    ("part", "class_path", "message"),
    [
        ("sampler", "llada.objectives.nelbo.NELBO", "is not a Sampler"),
        ("backbone", "subprocess.Popen", "is not a Module"),
        ("objective", "os.system", r"parts\.objective: the class os\.system isn't known"),
        ("optimizer", "subprocess.Popen", "is not a Optimizer"),
        ("sampler", "nowhere.Sampler", r"parts\.sampler: the class nowhere\.Sampler isn't known; .*--trust nowhere"),
    ],
)
def test_a_class_path_may_only_name_a_part_of_its_kind(
    learned: tuple[DiffusionLM, Path], tmp_path: Path, part: str, class_path: str, message: str
) -> None:
    checkpoint = read_checkpoint(learned[1])
    checkpoint["llada"]["parts"][part] = {"class_path": class_path, "init_args": {}}
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=message):
        DiffusionLM.load_from_checkpoint(tmp_path / "changed.ckpt")


def test_a_loaded_model_trains_in_training_mode(learned: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    model = DiffusionLM.load_from_checkpoint(learned[1])
    assert not model.training
    modes: list[bool] = []
    model.on_train_batch_start = lambda *_: modes.append(model.backbone.training)
    trainer(tmp_path, max_steps=1).fit(model, pattern())
    assert modes == [True]


def test_unknown_arguments_are_named(learned: tuple[DiffusionLM, Path]) -> None:
    with pytest.raises(ValueError, match="has no argument 'sede'"):
        DiffusionLM.load_from_checkpoint(learned[1], sede=3)


@pytest.mark.parametrize("kill_at", [1, 4, 6])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    def run(folder: Path, steps: int, resume: Path | None = None) -> tuple[dict[str, Tensor], Path]:
        model = build(lr_scheduler=partial(WarmupCosine, warmup_steps=2, total_steps=7))
        last = ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
        options = {"callbacks": [last], "enable_checkpointing": True, "max_steps": steps, "gradient_clip_val": 1.0}
        trainer(folder, **options).fit(model, pattern(48), ckpt_path=resume)
        return model.state_dict(), folder / "last.ckpt"

    whole, _ = run(tmp_path / "whole", 7)
    _, path = run(tmp_path / "killed", kill_at)
    resumed, _ = run(tmp_path / "resumed", 7, path)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_averaged_weights_are_what_a_checkpoint_holds(tmp_path: Path) -> None:
    model = build()
    run = trainer(tmp_path, max_steps=5, callbacks=[EMAWeightAveraging(decay=0.5)], enable_checkpointing=True)
    run.fit(model, pattern())
    path = next(tmp_path.rglob("*.ckpt"))
    averaged = DiffusionLM.load_from_checkpoint(path)
    live = read_checkpoint(path)["current_model_state"]
    name = "backbone.blocks.0.attention.q_proj.weight"
    assert not torch.equal(averaged.state_dict()[name], live[name])


def test_a_nan_loss_stops_the_run_and_saves_nothing(tmp_path: Path) -> None:
    class Broken(BidirectionalTransformer):
        def hidden(self, tokens: Tensor, **kwargs: Any) -> Tensor:
            return super().hidden(tokens, **kwargs) * (torch.nan if kwargs.get("select") is not None else 1.0)

    model = DiffusionLM(Broken(VOCAB, width=16, num_layers=1, num_heads=2), MaskingProcess(MASK))
    last = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    with pytest.raises(ValueError, match=r"loss became nan at step 0.*lower learning rate"):
        trainer(tmp_path, max_steps=3, callbacks=[last], enable_checkpointing=True).fit(model, pattern())
    assert not list(tmp_path.rglob("*.ckpt"))


def test_rows_without_maskable_tokens_train_nothing_and_break_nothing(tmp_path: Path) -> None:
    rows = [{"tokens": torch.arange(LENGTH), "maskable": torch.zeros(LENGTH, dtype=torch.bool)} for _ in range(4)]
    model = build(optimizer=partial(torch.optim.SGD, lr=1.0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.warns(UserWarning, match="no token of step 1 may change: labels are -100 everywhere") as told:
        trainer(tmp_path, max_epochs=1).fit(model, DataLoader(rows, batch_size=2))
    assert sum("may change" in str(each.message) for each in told) == 1  # of two steps
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_norms_and_biases_do_not_decay() -> None:
    model = DiffusionLM(
        BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2, qkv_bias=True),
        MaskingProcess(MASK),
        optimizer=partial(torch.optim.AdamW, weight_decay=0.1),
    )
    groups = model.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert [group["is_hidden"] for group in groups] == [True, False, False]
    assert all(p.ndim >= 2 for group in groups[:2] for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_warmup_stable_decay_is_lladas() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    schedule = {"warmup_steps": 4, "stable_steps": 3, "second_steps": 2, "decay_steps": 4}
    scheduler = WarmupStableDecay(optimizer, **schedule, second_factor=0.25, final_factor=0.025)
    rates = []
    for _ in range(15):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4, 4e-4, 1e-4, 1e-4, 1e-4, 7.75e-5, 5.5e-5, 3.25e-5, 1e-5, 1e-5]
    assert rates == pytest.approx(expected)


def test_warmup_cosine_reaches_the_peak_with_its_last_step_of_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4.0)
    scheduler = WarmupCosine(optimizer, warmup_steps=4, total_steps=8, final_factor=0.5)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    slant = 0.5**0.5
    assert rates == pytest.approx([1.0, 2.0, 3.0, 4.0, 4.0, 3 + slant, 3.0, 3 - slant, 2.0, 2.0])


def test_more_draws_give_a_tighter_bound(learned: tuple[DiffusionLM, Path], tmp_path: Path) -> None:
    model = DiffusionLM.load_from_checkpoint(learned[1], bound_draws=8)
    many = trainer(tmp_path).validate(model, pattern(), verbose=False)[0]
    one = trainer(tmp_path).validate(learned[0], pattern(), verbose=False)[0]
    assert many["val/nll_se"] < 0.6 * one["val/nll_se"]
    assert abs(many["val/nll"] - one["val/nll"]) < 5 * (many["val/nll_se"] ** 2 + one["val/nll_se"] ** 2) ** 0.5
    with pytest.raises(ValueError, match="bound_draws must be 1 or more"):
        build(bound_draws=0)


@pytest.mark.parametrize("sizes", [[4, 2, 3], [2, 4, 3], [4, 1, 1, 1]], ids=str)
def test_no_two_rows_of_a_step_share_their_noise(tmp_path: Path, sizes: list[int]) -> None:
    """Also where the micro-batches of a step have different sizes, in every order, over two windows of three."""

    class Noting(DiffusionLM):
        def _random(self, *arguments: Any) -> Any:
            random = super()._random(*arguments)
            noted.append((self.trainer.global_step, random))
            return random

    noted: list[tuple[int, Any]] = []
    model = Noting(BidirectionalTransformer(9, width=8, num_layers=1, num_heads=2), MaskingProcess(8))
    data: Any = [torch.ones(size, 4, dtype=torch.int64) for size in [*sizes, *sizes]]
    run = trainer(tmp_path, max_steps=-1, max_epochs=1, accumulate_grad_batches=3, limit_val_batches=0)
    run.fit(model, DataLoader(data, batch_size=None))
    keys = torch.cat([random.keys for _, random in noted])
    assert len(keys.unique()) == len(keys) == 2 * sum(sizes)
    assert all(((random.rows >= 0) & (random.rows < random.num_rows)).all() for _, random in noted)  # strata
    whole = [random.keys for step, random in noted if step == 0]
    together = model._random(0, 0, sum(map(len, whole)), 0, 1, 0)
    assert torch.equal(torch.cat(whole), together.keys)  # as in one big batch


STACKS: dict[str, list[list[str]]] = {}


def note(what: str, begin: str = "training_step") -> None:
    """Remember which functions of ours lie between the beginning and the caller, the schedule's checks left out."""
    frames = [frame for frame in traceback.extract_stack() if "/llada/" in frame.filename]
    names = [frame.name for frame in frames if frame.name != "checked"]
    if begin in names:
        STACKS.setdefault(what, []).append(names[names.index(begin) + 1 :])


@dataclass(frozen=True)
class SeenSchedule(LinearSchedule):
    def mask_probability(self, t: Tensor) -> Tensor:
        note("alpha")
        return super().mask_probability(t)


@dataclass(frozen=True)
class SeenSoftmax(Chunked):
    def __call__(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        note("softmax")
        return super().__call__(*arguments, **options)


def test_no_more_than_four_frames_from_fit_to_the_softmax_and_to_alpha(tmp_path: Path) -> None:
    STACKS.clear()
    backbone = BidirectionalTransformer(VOCAB, width=16, num_layers=1, num_heads=2)
    model = DiffusionLM(backbone, MaskingProcess(MASK, SeenSchedule()), head_loss=SeenSoftmax())
    trainer(tmp_path, max_steps=1).fit(model, pattern(16))
    assert STACKS["softmax"] == [
        ["__call__", "_judge", "weighted_nll"]
    ]  # and the loss itself, where the softmax stands
    assert ["__call__", "__call__", "corrupt", "shares"] in STACKS["alpha"]
