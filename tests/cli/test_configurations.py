"""``llada config``, ``llada compare`` and ``llada check``: what a training begins and ends with."""

import os
from pathlib import Path

import pytest
import torch

from llada.cli.check import bytes_of_state, size
from llada.cli.compare import cautions, differences
from llada.cli.config import configurations
from llada.cli.run_log import Run, flat, read_run
from tests.cli.conftest import Command

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"


def test_configurations_are_listed_and_printed(llada: Command) -> None:
    run = llada("config")
    assert run.code == 0
    names = [line.split()[0] for line in run.out.split("\n\n")[0].splitlines()]
    assert names == list(configurations())
    assert {"demo", "finetune", "mdlm", "scaling/fsdp"} <= set(names)
    assert "own_parts" not in names  # its classes are in the repository's examples alone
    for name in names:
        assert llada("config", name).out == (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    run = llada("config", "finetun")
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("llada config: there is no configuration 'finetun'; did you mean finetune? There are ")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            "examples/configs/scaling/ddp.yaml",
            "`llada config scaling/ddp > ddp.yaml` writes the one that comes with llada",
        ),
        ("demo", "`llada config demo > demo.yaml` writes the one that comes with llada"),
        ("mine.yaml", "`llada config` lists the configurations that come with llada"),
    ],
)
def test_a_configuration_that_comes_with_llada_is_told_where_it_is_missing(
    llada: Command, path: str, told: str
) -> None:
    """The comments of the configurations name one another by their places in the repository."""
    run = llada("fit", "--config", path)
    assert (run.code, run.err) == (2, f"llada fit: there is no file {path}; {told}\n")


def test_the_list_of_configurations_cuts_no_sentence() -> None:
    for path in configurations().values():
        first, second = path.read_text(encoding="utf-8").splitlines()[:2]
        assert first.endswith(".") or second.startswith("# ("), path


def write_run(folder: Path, last: float, config: str = "") -> None:
    folder.mkdir(parents=True)
    rows = [f"0,1,2.5,{3 + last}", f"0,2,,{last}", f"0,4,{last},{last + 1}"]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,val/nll,train/loss", *rows]) + "\n", encoding="utf-8")
    if config:
        (folder / "config.yaml").write_text(config, encoding="utf-8")


PART = (
    "model:\n  process:\n    class_path: {}\n    init_args: {{power: {}}}\ntrainer: {{plugins: [{{class_path: A}}]}}\n"
)


def test_two_runs_side_by_side(llada: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_run(tmp_path / "a/logs/version_0", 2.0, PART.format("Masking", 1))
    write_run(tmp_path / "b/logs/version_0", 9.0, PART.format("Masking", 9))
    write_run(tmp_path / "b/logs/version_1", 1.5, PART.format("Masking", 2))
    os.utime(tmp_path / "b/logs/version_0/metrics.csv", (1, 1))  # the newest counts
    run = llada("compare", "a", "b")
    assert (run.code, run.err) == (0, "")
    rows = [line.split() for line in run.out.splitlines() if line]
    assert rows[0] == ["b:", "b/logs/version_1", "read,", "of", "2", "logs"]
    assert rows[1] == ["configuration", "a", "b"]
    assert ["model.process.power", "1", "2"] in rows
    assert ["val/nll", "2.0000", "at", "4", "(2.0000)", "1.5000", "at", "4", "(1.5000)", "-0.5000"] in rows
    assert ["train/loss", "3.0000", "at", "4", "(2.0000)", "2.5000", "at", "4", "(1.5000)", "-0.5000"] in rows
    run = llada("compare", "a", "b", "--metric", "val/nll")
    assert "train/loss" not in run.out
    run = llada("compare", "a", "b", "--metric", "val/nl")
    assert (run.code, run.err.split(";")[1]) == (2, " did you mean val/nll? There are val/nll, train/loss\n")


def test_what_can_not_be_compared(llada: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metrics.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/metrics.csv").write_text("step,loss\n1,much\n")
    for name, code, reason in (
        ("nowhere", 1, "there is no folder or file nowhere"),
        ("empty", 1, "empty has no metrics.csv"),
        ("other", 1, "a and other have logged no metric of the same name"),
        ("broken", 1, "broken/metrics.csv, line 2 is no row of a CSVLogger"),
    ):
        run = llada("compare", "a", name)
        assert run.code == code
        assert reason in run.err
        assert run.err.count("\n") == 1
    run = llada("compare", "a", "a")
    assert "no config.yaml lies beside the logs" in run.out


def test_the_log_of_a_training_is_read_and_not_that_of_a_validation(llada: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "a/version_0", 2.0, PART.format("Masking", 1))
    write_run(tmp_path / "a/version_1", 7.0)  # llada validate writes no configuration
    os.utime(tmp_path / "a/version_0/metrics.csv", (1, 1))
    found = read_run("a")
    assert (found.read, found.logs, found.curves["val/nll"][-1]) == ((Path("a/version_0"),), 2, (4, 2.0))
    write_run(tmp_path / "b", 1.0, PART.format("Masking", 1))
    run = llada("compare", "a", "b")
    assert run.out.startswith("a: a/version_0 read, of 2 logs\nthe configurations are the same\n")


def test_the_logs_of_a_run_that_went_on_are_joined(llada: Command, tmp_path: Path) -> None:
    """From its checkpoint at step 3; what the stopped process logged behind that is lost, as its weights are."""
    logs = {"version_0": (0, "null"), "version_1": (3, "last"), "version_2": (9, "last"), "version_3": (6, "last")}
    for number, (log, (begin, path)) in enumerate(logs.items()):
        folder = tmp_path / "a" / log
        folder.mkdir(parents=True)
        rows = [f"{step},{100 * number + step}" for step in range(begin, begin + 5)] if log != "version_2" else []
        (folder / "metrics.csv").write_text("\n".join(["step,train/loss", *rows]))
        (folder / "config.yaml").write_text(f"ckpt_path: {path}\n")
        os.utime(folder / "metrics.csv", (number, number))
    write_run(tmp_path / "a/version_4", 7.0)  # of a validation: no configuration
    found = read_run("a")
    assert found.read == tuple(Path("a") / log for log in ("version_0", "version_1", "version_3"))
    assert [value for _, value in found.curves["train/loss"]] == [0, 1, 2, 103, 104, 105, 306, 307, 308, 309, 310]
    write_run(tmp_path / "other/version_0", 2.0, PART.format("Masking", 1))
    os.utime(tmp_path / "other/version_0/metrics.csv", (1, 2))  # of another run, in between
    assert set(read_run(".").read) == set(found.read)
    told = llada("compare", "a", "a").out.splitlines()[0]
    assert told == "a: a/version_0 and then a/version_1 and then a/version_3 read, of 5 logs"
    (tmp_path / "a/version_3/config.yaml").write_text("ckpt_path: null\n")  # a training that begins anew
    assert [value for _, value in read_run("a").curves["train/loss"]] == [306, 307, 308, 309, 310]


def test_standard_errors_stand_beside_their_metric(
    llada: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in (("a", 2.0), ("b", 1.5)):
        (tmp_path / name).mkdir()
        rows = [f"0,2,{value + 1},0.5,3", f"0,4,{value},0.25,3", "0,5,,,2"]
        (tmp_path / name / "metrics.csv").write_text("\n".join(["epoch,step,val/nll,val/nll_se,train/x_se", *rows]))
    out = llada("compare", "a", "b").out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "val/nll 2.0000 +- 0.2500 at 4 (2.0000) 1.5000 +- 0.2500 at 4 (1.5000) -0.5000" in rows
    assert "val/nll_se" not in out
    assert "train/x_se" in out  # of no metric
    assert "val/nll_se" in llada("compare", "a", "b", "--metric", "val/nll_se").out


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("data.source.paths", "metrics of another held-out text can't be compared"),
        ("data.val_fraction", "metrics of another held-out text can't be compared"),
        ("data.tokenizer.vocab_size", "val/bits_per_byte can be compared"),
        ("data.max_length", "a token sees another context"),
        ("model.objective", "train/loss is of another objective"),
        ("data.batch_size", None),
        ("model.backbone.width", None),
    ],
)
def test_what_cannot_be_compared_is_told(place: str, told: str | None) -> None:
    lines = cautions(Run("a", {}, {place: 1, "x": 2}), Run("b", {}, {place: 2, "x": 2}))
    assert len(lines) == (told is not None)
    assert told is None or (lines[0].startswith(f"{place} differs: ") and told in lines[0])
    assert cautions(Run("a", {}, {}), Run("b", {}, {place: 2})) == []


def test_curves_are_drawn(llada: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_run(tmp_path / "a", 2.0)
    write_run(tmp_path / "b", 1.0)
    run = llada("compare", "a", "b", "--plot", "curves.svg")
    assert run.code == 0, run.err
    assert run.out.endswith("curves drawn to curves.svg\n")
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_what_differs() -> None:
    first = Run("a", {}, dict(flat({"x": {"class_path": "A", "init_args": {"y": 1, "z": [1, 2]}}, "w": [{"v": 3}]})))
    assert first.config == {"x": "A", "x.y": 1, "x.z": [1, 2], "w.0.v": 3}
    second = Run("b", {}, {**first.config, "x.y": 2, "new": 0})
    assert differences(first, second) == [("x.y", 1, 2), ("new", None, 0)]
    assert differences(first, first) == []


def test_the_newest_log_is_read(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 2.0)
    assert read_run(str(tmp_path)).curves == {
        "val/nll": [(1, 2.5), (4, 2.0)],
        "train/loss": [(1, 5.0), (2, 2.0), (4, 3.0)],
    }


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [(torch.optim.AdamW, 8.0), (torch.optim.SGD, 0.0), (torch.optim.RMSprop, 4.0)],
)
def test_what_an_optimiser_keeps_per_weight(optimizer: type[torch.optim.Optimizer], expected: float) -> None:
    assert bytes_of_state(optimizer) == expected
    assert [size(n) for n in (5, 1500, 2.5e6, 3e9, 4e12)] == ["5 B", "1.5 kB", "2.5 MB", "3.0 GB", "4.0 TB"]


def test_a_configuration_is_looked_at(llada: Command, story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ["--data.source=TextFiles", f"--data.source.paths={story}", "--data.cache_folder=cache"]
    config = [CONFIGS / "pretrain_llada.yaml", "--config", CONFIGS / "scaling/fsdp.yaml", *text]
    run = llada("check", *config)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert "parts    process: MaskingProcess(" in run.out
    parameters = next(line for line in lines if line.endswith(" parameters"))
    count = int(parameters.split()[1].replace(",", ""))
    memory = next(line for line in lines if line.startswith("model    memory: "))
    assert memory.startswith(f"model    memory: weights {size(4 * count)} + gradients {size(4 * count)} + optimiser ")
    assert f"= {size(16 * count)} before activations, over 8 x 1 devices" in memory
    assert any(line.startswith("data     TextDataModule: ") for line in lines)
    assert lines[-1] == "saving   every part comes back from a checkpoint, and no earlier model is replaced"
    assert os.listdir() == []  # nothing was made
    assert "no multiple of 8" not in run.out
    odd = ["--model.backbone.init_args.hidden_width", "1444"]
    assert "on a GPU: matrices have 1444 rows or columns, no multiple of 8" in llada("check", *config, *odd).out
    assert "on a GPU" not in llada("check", *config, *odd, "--trainer.accelerator=cpu").out

    Path("runs/pretrain_llada").mkdir(parents=True)
    Path("runs/pretrain_llada/model.ckpt").touch()
    monkeypatch.setattr("llada.cli.check.check_describable", refuse)
    run = llada("check", *config)
    assert run.code == 1
    assert run.err.startswith("llada check: it can't be described; ")
    assert "runs/pretrain_llada/model.ckpt is the model of an earlier run" in run.err
    assert llada("check", *config, "--overwrite").err.startswith("llada check: it can't be described (read: ")


def refuse(model: object) -> None:
    raise ValueError("it can't be described")
