"""``llada sample`` with a model that knows one sentence."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from llada.checkpoints.checkpoint import read_checkpoint
from llada.text import load
from tests.cli.conftest import Command, Trained


def lines(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_it_goes_on_from_prompts(llada: Command, trained: Trained) -> None:
    options = ["--prompt", "boat 7 is", "--prompt", "boat 12 is", "--num_new_tokens", "10", "--jsonl"]
    run = llada("sample", "--checkpoint", trained.checkpoint, *options)
    assert run.code == 0, run.err
    first, second = lines(run.out)
    assert str(first["text"]).startswith("boat 7 is on the river")
    assert str(second["text"]).startswith("boat 12 is on the river")
    assert (first["generated"], first["calls"], first["seed"], second["seed"]) == (10, 10, 0, 1)


def test_plain_text_ends_with_what_it_cost(llada: Command, trained: Trained) -> None:
    options = ["--prompt", "boat 7 is", "--num_new_tokens", "10"]
    run = llada("sample", "--checkpoint", trained.checkpoint, *options)
    assert run.code == 0, run.err
    text, cost = run.out.rstrip("\n").rsplit("\n", 1)
    assert text.startswith("boat 7 is on the river")
    assert cost == "-- 10 model calls for 10 tokens"


def test_it_fills_gaps_and_keeps_the_rest(llada: Command, trained: Trained) -> None:
    tokenizer = load(str(trained.checkpoint), None, "cpu").tokenizer
    gap = len(tokenizer.encode(" is on the"))
    template = f"boat 7[MASK:{gap}] river"
    run = llada("sample", "--checkpoint", trained.checkpoint, "--infill", template, "--jsonl")
    assert run.code == 0, run.err
    (filled,) = lines(run.out)
    assert filled["text"] == "boat 7 is on the river"
    assert filled["generated"] == gap


def test_the_denoising_is_shown_and_written_as_a_page(llada: Command, trained: Trained, tmp_path: Path) -> None:
    options = ["--prompt", "boat 7", "--num_new_tokens", "10", "--num_samples", "2"]
    plain = llada("sample", "--checkpoint", trained.checkpoint, *options)
    page = tmp_path / "page.html"
    shown = llada("sample", "--checkpoint", trained.checkpoint, *options, "--show", "--page", str(page))
    assert shown.code == 0, shown.err
    assert shown.out.endswith(plain.out.rsplit("boat 7", 1)[1])
    assert shown.out.count("boat 7") > plain.out.count("boat 7")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_denoising_is_written_as_an_animated_picture(llada: Command, trained: Trained, tmp_path: Path) -> None:
    options = ["--prompt", "boat 7 is", "--num_new_tokens", "10", "--page", "a.html", "--picture", "a.svg"]
    plain = llada("sample", "--checkpoint", trained.checkpoint, *options[:4])
    drawn = llada("sample", "--checkpoint", trained.checkpoint, *options)
    assert drawn.out == plain.out
    svg = ElementTree.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert "step 10 of 10, 10 model calls" in [element.text for element in svg]
    assert (tmp_path / "a.html").is_file()


def test_what_is_written_matches_an_expression(llada: Command, trained: Trained) -> None:
    base = ["sample", "--checkpoint", trained.checkpoint, "--jsonl"]
    pattern = r" (under|over) the [a-z]{3,6}"
    run = llada(*base, "--prompt", "boat 7 is", "--prompt", "boat 123 is", "--num_new_tokens", "12", "--regex", pattern)
    assert run.code == 0, run.err
    for row, prompt in zip(lines(run.out), ("boat 7 is", "boat 123 is"), strict=True):
        assert re.fullmatch(re.escape(prompt) + pattern, str(row["text"]))
        assert row["calls"] == 12
    run = llada(
        *base, "--infill", "boat [MASK:2] is on", "--infill", "boat 7[MASK] is", "--regex", r"\d+", "--num_samples=2"
    )
    assert run.code == 0, run.err
    for row in lines(run.out):
        assert re.fullmatch(r"boat \d+ is on|boat 7\d+ is", str(row["text"]))


def test_an_expression_that_cannot_be_is_refused(llada: Command, trained: Trained) -> None:
    base = ["sample", "--checkpoint", trained.checkpoint, "--prompt", "boat", "--num_new_tokens", "3"]
    for options, message in (
        (["--regex", "("], "is no regular expression"),
        (["--regex", "[a-z]{200}"], "row 0 can't be made to match"),
        (
            ["--regex", "a", "--sampler=llada21"],
            "which EditingSampler may change; use UnmaskingSampler",
        ),
        (["--regex", "a", "--sampler=llada.samplers.NextToken"], "NextToken takes no constraints"),
    ):
        run = llada(*base, *options)
        assert run.code == 1
        assert message in run.err


def test_a_text_is_taken_as_it_stands(llada: Command, trained: Trained) -> None:
    texts = ["[MASK:2]", "12", "{a: b}", ":smile: [red]"]
    options = [item for text in texts for item in ("--prompt", text)]
    run = llada("sample", "--checkpoint", trained.checkpoint, *options, "--num_new_tokens", "1", "--jsonl")
    assert run.code == 0, run.err
    assert [str(row["text"]).startswith(text) for row, text in zip(lines(run.out), texts, strict=True)] == [True] * 4
    run = llada("sample", "--checkpoint", trained.checkpoint, *options, "--num_new_tokens", "1")
    assert ":smile: [red]" in run.out


def test_seeds_repeat_and_do_not_depend_on_the_batch(llada: Command, trained: Trained) -> None:
    options = ["--prompt", "boat", "--num_samples", "3", "--num_new_tokens", "8", "--jsonl"]
    options += ["--sampler", "random_remasking", "--sampler.steps", "4", "--sampler.temperature", "2.0"]
    base = ["sample", "--checkpoint", trained.checkpoint, *options]
    together, alone = llada(*base, "--seed", "5"), llada(*base, "--seed", "5", "--batch_size", "1")
    assert together.out == alone.out
    texts = [row["text"] for row in lines(together.out)]
    assert len(set(texts)) == 3
    assert [row["text"] for row in lines(llada(*base, "--seed", "6").out)][:2] == texts[1:]
    assert all(row["calls"] == 4 for row in lines(together.out))


def test_samplers_by_name_and_by_class_path(llada: Command, trained: Trained) -> None:
    base = ["sample", "--checkpoint", trained.checkpoint, "--num_new_tokens", "6", "--jsonl"]
    short = llada(*base, "--sampler=low_confidence", "--sampler.steps=3")
    long = llada(*base, "--sampler=llada.samplers.low_confidence", "--sampler.init_args.steps=3")
    assert short.out == long.out
    assert lines(short.out)[0]["calls"] == 3
    parts = llada(*base, "--sampler=UnmaskingSampler", "--sampler.amount=Quota", "--sampler.amount.steps=2")
    assert parts.code == 0, parts.err
    assert lines(parts.out)[0]["calls"] == 2
    wrong = llada(*base, "--sampler=low_confidnce")
    assert wrong.code == 2
    assert "low_confidnce" in wrong.err


def test_a_draft_is_edited(llada: Command, trained: Trained) -> None:
    """The model was never trained to find faults: what it is unsure of stays, what it writes into masks is its own."""
    options = ["--prompt", "boat 7 is", "--draft", " on the", "--num_new_tokens", "8", "--jsonl"]
    sampler = ["--sampler=llada21", "--sampler.edit_threshold=1.0"]
    run = llada("sample", "--checkpoint", trained.checkpoint, *options, *sampler)
    assert run.code == 0, run.err
    (row,) = lines(run.out)
    assert str(row["text"]).startswith("boat 7 is on the r")
    assert row["generated"] == 8
    assert 1 <= int(str(row["calls"])) < 8  # part of it was there


def test_prompts_from_a_file(llada: Command, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("boat 1 is\n\nboat 2 is\n", encoding="utf-8")
    base = ["sample", "--checkpoint", trained.checkpoint, "--num_new_tokens", "2", "--jsonl"]
    run = llada(*base, "--prompts_file", "prompts.txt")
    assert [str(row["text"])[:9] for row in lines(run.out)] == ["boat 1 is", "boat 2 is"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "boat " * 60], r"max_length|longest|48"),
        (["--num_new_tokens", "0"], "num_new_tokens must be 1 or more; got 0"),
        (["--num_samples", "0"], "num_samples must be 1 or more; got 0"),
        (["--draft", "is"], "--draft: UnmaskingSampler writes into masks and edits no draft"),
        (["--draft", "is", "--infill", "a[MASK]"], "has gaps instead; leave one out"),
        (["--draft", "is on", "--num_new_tokens", "1", "--sampler", "llada21"], "the draft has|ask for more with"),
        (["--infill", "no gap here"], "the template has no gap; write [MASK:8]"),
        (["--prompts_file", "empty.txt"], "empty.txt is empty"),
        (["--prompts_file", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--prompts_file", "latin.txt"], "latin.txt is not UTF-8 text"),
        (["--tokenizer", "nowhere"], "there is no folder or file nowhere"),
        (["--tokenizer", "other"], "was trained with another tokenizer"),
    ],
)
def test_what_is_wrong_is_said(
    llada: Command, trained: Trained, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    if "other" in options:
        source = ["--source=TextFiles", f"--source.paths={Path(__file__)}"]
        assert llada("tokenizer", "train", *source, "--training.vocab_size=400", "--out=other").code == 0
    run = llada("sample", "--checkpoint", trained.checkpoint, *options)
    assert run.code == 1
    assert run.out == ""
    assert any(part in run.err for part in message.split("|"))
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_a_truncated_checkpoint_is_refused(llada: Command, trained: Trained, share: float) -> None:
    whole = trained.checkpoint.read_bytes()
    Path("cut.ckpt").write_bytes(whole[: int(share * len(whole))])
    run = llada("sample", "--checkpoint", "cut.ckpt")
    assert run.code == 1
    assert "cut.ckpt is damaged" in run.err


def test_a_checkpoint_without_tokenizer_asks_for_one(llada: Command, trained: Trained) -> None:
    stored = read_checkpoint(trained.checkpoint)
    stored["llada"] |= {"tokenizer": None, "tokenizer_files": {}}
    torch.save(stored, "bare.ckpt")
    run = llada("sample", "--checkpoint", "bare.ckpt")
    assert run.code == 1
    assert "holds no tokenizer; give the folder of its tokenizer with --tokenizer" in run.err
    assert llada("tokenizer", "extract", "--checkpoint", trained.checkpoint, "--out", "words").code == 0
    base = ["--prompt", "boat 7 is", "--num_new_tokens", "4"]
    given = llada("sample", "--checkpoint", "bare.ckpt", "--tokenizer", "words", *base)
    assert given.out == llada("sample", "--checkpoint", trained.checkpoint, *base).out
