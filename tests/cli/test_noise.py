"""The commands with noise that draws random tokens: its recipes are trained, sampled from and shown."""

import json
from pathlib import Path

import pytest

from llada.module import DiffusionLM
from tests.cli.conftest import CONFIGS, QUIET, SHORT, SMALL, Command, checkpoint_in, text

SAMPLERS = {"uniform": "CommitAndRenoise", "hybrid": "PsiSampler", "duo": "GibbsSampler"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_recipes_of_noise_train_and_generate(llada: Command, story: Path, tmp_path: Path, name: str) -> None:
    options = ["--config", CONFIGS / f"{name}.yaml", *text(story), *SMALL, *QUIET, *SHORT]
    run = llada("fit", *options, "--model.sampler.init_args.steps=4")
    assert run.code == 0, run.err
    assert "best val/nll" in run.out
    path = checkpoint_in(tmp_path)
    model = DiffusionLM.load_from_checkpoint(path)
    assert model.process.num_tokens == 290
    assert model.sampler.steps == 4  # type: ignore[attr-defined]

    run = llada("predict", *options, "--ckpt_path", path, "--trainer.limit_predict_batches=1")
    assert run.code == 0, run.err
    rows = [json.loads(line) for line in run.out.splitlines() if line.startswith("{")]
    assert len(rows) == 4
    assert all(row["generated"] == 8 for row in rows)
    assert all("boat" in row["text"] or "river" in row["text"] for row in rows)  # the half that was given

    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    asked = ["--prompt", "boat 7", "--infill", "boat[MASK:3] river", "--num_new_tokens", "5"]
    run = llada("sample", path, *asked, "--sampler", SAMPLERS[name], "--sampler.steps=3", "--jsonl")
    assert run.code == 0, run.err
    first, second = (json.loads(line) for line in run.out.splitlines())
    assert (first["generated"], second["generated"]) == (5, 3)
    assert first["text"].startswith("boat 7")
    assert second["text"].startswith("boat")
    assert second["text"].endswith("river")
    shown = llada("sample", path, *asked[:2], "--show", "--page", page, "--picture", picture)
    assert shown.code == 0, shown.err
    assert "tokens changed" in shown.out
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert picture.read_text().startswith("<svg")

    steered = ["--sampler", "ParticleSampler", "--sampler.sampler.class_path=AncestralSampler"]
    steered += ["--sampler.sampler.init_args.steps=2", "--sampler.sampler.init_args.window.class_path=Blocks"]
    steered += ["--sampler.sampler.init_args.window.init_args.block_length=3", "--sampler.particles=2"]
    steered += ["--sampler.potential.class_path=TokenPotential", "--sampler.potential.init_args.token_ids=[5]"]
    run = llada("sample", path, *asked[:2], "--num_new_tokens", "5", *steered, "--jsonl")
    assert run.code == 0, run.err
    assert json.loads(run.out)["calls"] == 4  # of two particles

    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    questions.write_text('{"prompt": "boat 7"}\n{"prompt": "boat 12 is"}\n')
    run = llada("generate", path, questions, answers, "--num_new_tokens", "4")
    assert run.code == 0, run.err
    assert {json.loads(line)["id"] for line in answers.read_text().splitlines()} == {0, 1}
