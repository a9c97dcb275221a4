"""``llada evaluate`` on a tiny checkpoint and a task that lies beside the tests."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from llada import __version__
from llada.cli import evaluate
from llada.evaluation import PROTOCOLS, Protocol
from llada.metrics import UnderSampler
from llada.samplers import comb
from tests.cli.conftest import Command
from tests.tiny_checkpoint import write_checkpoint

TASKS = Path(__file__).parents[1] / "evaluation" / "tasks"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("tasks")
    for path in TASKS.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8").replace("TASKS", str(TASKS)), encoding="utf-8")
    return folder


def test_a_task(llada: Command, checkpoint: Path, tasks: Path) -> None:
    options = ["--tasks", "boat_choice", "--include_path", tasks, "--output", "scores.json", "--device", "cpu"]
    done = llada("evaluate", checkpoint, *options)
    assert done.code == 0, done.err
    written = json.loads(Path("scores.json").read_text())
    scores = written["boat_choice"]
    assert f"boat_choice  acc (none)  {scores['acc,none']:.4f}" in done.out
    assert list(written) == ["boat_choice", "how"]


def test_a_file_of_scores_says_how_they_were_measured(llada: Command, checkpoint: Path, tasks: Path) -> None:
    words = ["evaluate", checkpoint, "--tasks", "boat_choice", "--include_path", tasks, "--output", "new/scores.json"]
    words += ["--device", "cpu", "--limit", 2, "--seed", 7, "--estimator.num_samples", 64, "--temperature", 0.5]
    assert llada(*words).code == 0
    first = json.loads(Path("new/scores.json").read_text())
    how = first["how"]
    assert how["command"] == shlex.join(["llada", *map(str, words)])
    assert (how["checkpoint"], how["seed"], how["limit"], how["chat"]) == (str(checkpoint), 7, 2, False)
    assert how["questions"] == {"boat_choice": {"original": 3, "effective": 2}}
    assert (how["examples"], how["task_versions"]) == ({"boat_choice": 0}, {"boat_choice": 1.0})
    assert "num_samples=64" in how["likelihood"]
    assert "temperature=0.5" in how["sampler"]
    assert (how["device"], how["dtype"], how["processes"]) == ("cpu", "float32", 1)
    assert how["versions"]["torch"] == torch.__version__.split("+")[0] or how["versions"]["torch"] == torch.__version__
    assert how["versions"]["llada"] == __version__
    assert abs(datetime.now(UTC) - datetime.fromisoformat(how["date"])) < timedelta(minutes=10)
    assert "one standard error" in how["units"]
    again = llada(*shlex.split(how["command"])[1:])
    assert again.code == 0
    second = json.loads(Path("new/scores.json").read_text())
    assert second["boat_choice"] == first["boat_choice"]
    done = llada(*words, "--output", "new")
    assert (done.code, "new is a folder; --output is a file" in done.err) == (1, True)


def test_answers_are_scored_under_a_sampler(
    llada: Command, checkpoint: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sampler that has a likelihood; another one is refused with its reason."""
    seen = {}
    monkeypatch.setattr(
        evaluate.harness, "run_tasks", lambda model, *_, **__: seen.update(model=model) or {"results": {}, "notes": {}}
    )
    options = ["--tasks", "boat_choice", "--include_path", tasks, "--device", "cpu"]
    options += ["--likelihood", "sampler", "--sampler"]
    done = llada("evaluate", checkpoint, *options, "comb", "--sampler.stride", "4")
    assert done.code == 0, done.err
    model = seen["model"]
    assert model.estimator == UnderSampler(sampler=comb(4))
    pair = model.encode_pair("The boat was ", "red")
    ((value, _),) = model.log_likelihoods([pair], [0])
    tokens = torch.tensor([[*pair.context, *pair.continuation]])
    given = torch.arange(tokens.shape[1])[None] < len(pair.context)
    network = model.text.model
    found = comb(4).likelihood(network.backbone, tokens, network.process, given=given)
    assert value == float(found.log_likelihood)
    done = llada("evaluate", checkpoint, *options, "low_confidence")
    assert done.code == 1
    assert "no likelihood under" in done.err
    done = llada("evaluate", checkpoint, *options, "comb", "--estimator.num_samples", "32")
    assert "give one of them" in done.err


def test_a_protocol_brings_its_settings_and_its_score(
    llada: Command, checkpoint: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Protocol("nobody/nothing", "boat_answer", 70.3, num_new_tokens=8, block_length=4, chat=True)
    monkeypatch.setitem(PROTOCOLS, "tiny/answer", made)
    seen = {}
    inner = evaluate.harness.run_tasks

    def watched(model, names, **options):
        seen.update(model=model, names=names, **options)
        return inner(model, names, **options)

    monkeypatch.setattr(evaluate.harness, "run_tasks", watched)
    done = llada("evaluate", checkpoint, "--protocol", "tiny/answer", "--include_path", tasks, "--device", "cpu")
    assert done.code == 0, done.err
    assert "published  0.7030, by this harness" in done.out
    assert seen["names"] == ["boat_answer"]
    assert seen["apply_chat_template"] is True
    assert (seen["model"].num_new_tokens, seen["model"].text.bos) == (8, False)
    assert seen["model"].text.sampler == made.sampler()
    assert seen["model"].estimator == made.estimator(8)


def test_what_is_missing_is_named(llada: Command, checkpoint: Path) -> None:
    assert "give a checkpoint and --tasks" in llada("evaluate", checkpoint).err
    assert "there is no protocol 'x'" in llada("evaluate", "--protocol", "x").err
    assert "--allow_code" in llada("evaluate", checkpoint, "--protocol", "llada-8b-base/humaneval").err


def test_the_protocols_can_be_listed(llada: Command) -> None:
    lines = llada("evaluate", "--protocol", "list").out.splitlines()
    assert len(lines) == len(PROTOCOLS)
    assert lines[0].split() == ["llada-8b-base/gpqa", "25.2", "%", "gpqa_main_n_shot"]
