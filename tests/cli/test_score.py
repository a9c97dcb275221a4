"""``llada score`` with a model that knows one sentence."""

import json
import math
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch

from llada.cli.score import bound_of
from llada.metrics import masked_log_likelihood
from llada.samplers import comb
from llada.text import load
from tests.cli.conftest import Command, Trained


def lines(out: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_right_answer_wins(llada: Command, trained: Trained) -> None:
    options = ["--prompt", "boat 7 is", "--answer", " on the hill", "--answer", " on the river", "--jsonl"]
    run = llada("score", "--checkpoint", trained.checkpoint, *options)
    assert run.code == 0, run.err
    wrong, right = lines(run.out)
    assert (wrong["best"], right["best"]) == (False, True)
    assert right["log_likelihood"] > wrong["log_likelihood"] + 5.0
    assert (right["prompt"], right["answer"]) == ("boat 7 is", " on the river")


def test_short_answers_are_exact(llada: Command, trained: Trained) -> None:
    loaded = load(str(trained.checkpoint), None, "cpu")
    prompt = loaded.encode("boat 7 is on the")
    answer = loaded.tokenizer.encode(" hot")
    size = len(answer)
    assert 2 <= size <= 4
    tokens = torch.tensor([[*prompt, *answer]])
    place = torch.arange(tokens.shape[1])[None] >= len(prompt)
    total = 0.0
    for count in range(1, size + 1):  # the mean over all sets of masks of a size, then over the sizes
        sets = list(combinations(range(size), count))
        for chosen in sets:
            masked = torch.zeros_like(place)
            masked[0, [len(prompt) + i for i in chosen]] = True
            model = loaded.model
            with torch.no_grad():
                f = masked_log_likelihood(model.backbone, model.process, tokens, place, masked)
            total += float(f) * size / count / len(sets) / size
    options = ["--prompt", "boat 7 is on the", "--answer", " hot"]
    (found,) = lines(llada("score", "--checkpoint", trained.checkpoint, *options, "--jsonl").out)
    assert found["log_likelihood"] == pytest.approx(total, rel=1e-5)
    assert (found["standard_error"], found["num_tokens"]) == (0.0, size)
    text = llada("score", "--checkpoint", trained.checkpoint, *options).out
    assert float(re.findall(r"(-[\d.]+) \(exact\) nats", text)[0]) == pytest.approx(total, abs=2e-4)
    assert "(exact)" in text
    assert "best" not in text


def test_seeds_repeat_and_precision_can_be_asked_for(llada: Command, trained: Trained) -> None:
    options = ["--prompt", "", "--answer", "boat 7 is on the hill and the other", "--jsonl"]
    base = ["score", "--checkpoint", trained.checkpoint, *options]
    first, again, other = (lines(llada(*base, "--seed", seed).out)[0] for seed in (1, 1, 2))
    assert first == again
    difference = abs(first["log_likelihood"] - other["log_likelihood"])
    # Errors from four batches have a t distribution: 6 standard errors are a false alarm in less than 1 of 100 cases.
    assert 0.0 < difference < 6.0 * math.hypot(first["standard_error"], other["standard_error"])
    (precise,) = lines(llada(*base, "--seed", 1, "--estimator.num_samples", "512").out)
    assert precise["standard_error"] < first["standard_error"]
    plain = llada(*[part for part in base if part != "--jsonl"], "--seed", 1).out
    assert f"{first['log_likelihood']:.4f} +- {first['standard_error']:.4f} nats" in plain


def test_pairs_from_a_file(llada: Command, trained: Trained, tmp_path: Path) -> None:
    records = [
        {"prompt": "boat 7 is", "answers": [" on the river", " in the sky"]},
        {"prompt": "boat 8", "answer": " is on"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    run = llada("score", "--checkpoint", trained.checkpoint, "--pairs", "pairs.jsonl", "--jsonl")
    assert run.code == 0, run.err
    found = lines(run.out)
    assert [(row["answer"], row["best"]) for row in found] == [
        (" on the river", True),
        (" in the sky", False),
        (" is on", True),
    ]
    plain = llada("score", "--checkpoint", trained.checkpoint, "--pairs", "pairs.jsonl").out
    assert plain.count("<- best") == 1
    paired = ["--prompt", "boat 7 is", "--answer", " on the river", "--prompt", "boat 8", "--answer", " is on"]
    run = llada("score", "--checkpoint", trained.checkpoint, *paired, "--jsonl")
    two = [row["log_likelihood"] for row in lines(run.out)]
    assert two == pytest.approx([found[0]["log_likelihood"], found[2]["log_likelihood"]], rel=1e-5)


def test_the_bound_of_a_text(llada: Command, trained: Trained, tmp_path: Path) -> None:
    known = "\n".join(f"boat {number} is on the river" for number in range(30))
    (tmp_path / "known.txt").write_text(known, encoding="utf-8")
    (tmp_path / "strange.txt").write_text(Path(__file__).read_text(encoding="utf-8")[:1000], encoding="utf-8")
    base = ["score", "--checkpoint", trained.checkpoint, "--max_length", "16", "--draws", "4"]
    run = llada(*base, "--text", "known.txt", "--jsonl")
    assert run.code == 0, run.err
    (found,), (strange,) = lines(run.out), lines(llada(*base, "--text", "strange.txt", "--jsonl").out)
    assert found["nll"] < strange["nll"] - 1.0
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))
    nats = found["nll"] * found["num_tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2.0) / len(known.encode()))
    tokenizer = load(str(trained.checkpoint), None, "cpu").tokenizer
    assert found["num_tokens"] == len(tokenizer.encode(known)) + 2  # BOS and EOS
    assert found["num_rows"] == math.ceil(found["num_tokens"] / 16)
    assert 0.0 < found["nll_se"] < 0.5
    assert 0.0 < found["draw_se"] < 0.5
    plain = llada(*base, "--text", "known.txt").out
    assert f"nats per token  {found['nll']:.4f} +- {found['nll_se']:.4f}" in plain
    assert f"bits per byte   {found['bits_per_byte']:.4f}" in plain


def test_the_bound_does_not_depend_on_the_batch_and_tells_its_error(trained: Trained) -> None:
    loaded = load(str(trained.checkpoint), None, "cpu")
    text = "boat 7 is on the river " * 12
    one, many = (bound_of(text, loaded, 16, draws=3, batch_size=size, seed=4) for size in (1, 64))
    assert float(one.estimate.nll) == pytest.approx(float(many.estimate.nll), rel=1e-5)
    assert one.draw_se == pytest.approx(many.draw_se, rel=1e-3)
    others = torch.tensor([float(bound_of(text, loaded, 16, 3, 64, seed).estimate.nll) for seed in range(24)])
    errors = torch.tensor([bound_of(text, loaded, 16, 3, 64, seed).draw_se for seed in range(24)])
    # A squared error of 24 runs against the mean of 24 estimates of it: within a factor of 2.5 but for 1 in 1000.
    assert 0.4 < float(others.var() / errors.square().mean()) < 2.5
    single = bound_of("boat", loaded, 16, draws=1, batch_size=8, seed=0)
    assert single.num_rows == 1
    assert math.isnan(single.draw_se)
    assert math.isnan(float(single.estimate.nll_se))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of: --prompt with --answer, --pairs FILE.jsonl, or --text FILE"),
        (["--prompt", "a", "--answer", "b", "--text", "story.txt"], "give one of"),
        (["--prompt", "a"], "--prompt and --answer belong together"),
        (["--answer", "a"], "--prompt and --answer belong together"),
        (["--prompt", "a", "--prompt", "b", "--answer", "c"], "there are 2 prompts and 1 answers"),
        (["--prompt", "a", "--answer", ""], "an answer to the prompt 'a' is empty"),
        (["--prompt", "boat " * 60, "--answer", "b"], "48"),
        (["--prompt", "a", "--answer", "b", "--estimator.num_samples", "100"], "positive multiple of batch_size"),
        (["--pairs", "pairs.jsonl"], "pairs.jsonl, line 2: there must be a text 'answer'"),
        (["--pairs", "broken.jsonl"], "broken.jsonl, line 1: malformed JSON"),
        (["--pairs", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--text", "empty.txt", "--max_length", "8"], "empty.txt is empty"),
        (["--text", "nowhere.txt", "--max_length", "8"], "there is no file nowhere.txt"),
        (["--text", "story.txt"], "--text needs --max_length"),
        (["--text", "story.txt", "--max_length", "0"], "max_length must be 1 or more; got 0"),
        (["--text", "story.txt", "--max_length", "49"], "48"),
        (["--text", "story.txt", "--max_length", "8", "--draws", "0"], "draws must be 1 or more; got 0"),
    ],
)
def test_what_is_wrong_is_said(
    llada: Command, trained: Trained, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "story.txt").write_text("boat 7 is on the river " * 20)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a", "answer": 3}\n')
    (tmp_path / "broken.jsonl").write_text("{prompt\n")
    run = llada("score", "--checkpoint", trained.checkpoint, *options)
    assert run.code == 1
    assert run.out == ""
    assert message in run.err
    assert run.err.startswith("llada score: ")


def test_texts_and_answers_under_a_sampler(llada: Command, trained: Trained, tmp_path: Path) -> None:
    loaded = load(str(trained.checkpoint), None, "cpu")
    (tmp_path / "text.txt").write_text("boat 7 is on the hill and the other", encoding="utf-8")
    options = [
        "--text",
        tmp_path / "text.txt",
        "--max_length",
        "8",
        "--sampler",
        "comb",
        "--sampler.stride=2",
        "--jsonl",
    ]
    (found,) = lines(llada("score", trained.checkpoint, *options).out)
    ids = [*loaded.encode("boat 7 is on the hill and the other"), loaded.tokenizer.eos_token_id]
    model, sampler = loaded.model, comb(stride=2)
    rows = [sampler.likelihood(model.backbone, row[None], model.process) for row in torch.tensor(ids).split(8)]
    nats = -sum(float(row.log_likelihood) for row in rows)
    assert found["nll"] == pytest.approx(nats / len(ids), rel=1e-6)
    assert found["draw_se"] == 0.0
    words = ["--prompt", "boat 7 is", "--answer", " on the hill", "--answer", " on the river"]
    run = llada("score", trained.checkpoint, *words, "--sampler", "comb")
    assert "best: ' on the river'" in run.out
    assert run.out.count("(exact)") == 2
    refused = llada("score", trained.checkpoint, *words, "--sampler", "low_confidence")
    assert (refused.code, "TopProb" in refused.err) == (1, True)
    both = llada("score", trained.checkpoint, *words, "--sampler", "comb", "--estimator.num_samples", "64")
    assert (both.code, "give one of them" in both.err) == (1, True)
