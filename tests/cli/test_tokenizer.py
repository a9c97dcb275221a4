"""``llada tokenizer train | show | extract``."""

from pathlib import Path

import pytest

from llada.checkpoints.checkpoint import read_checkpoint
from llada.data import load_tokenizer
from tests.cli.conftest import Command, Trained


def test_train_and_show(llada: Command, story: Path) -> None:
    source = ["--source=TextFiles", f"--source.paths={story}"]
    training = ["--training.vocab_size=300", "--training.control_symbols=[<|eot_id|>]"]
    run = llada("tokenizer", "train", *source, *training, "--out=words")
    assert run.code == 0, run.err
    tokenizer = load_tokenizer("words")
    assert run.out == f"300 tokens, fingerprint {tokenizer.fingerprint[:16]}, in words\n"
    run = llada("tokenizer", "show", "--tokenizer=words", "--text=the river")
    size, special, cut = run.out.splitlines()
    assert size == f"300 tokens, fingerprint {tokenizer.fingerprint[:16]}"
    assert special == "special tokens: <unk> = 0, <pad> = 1, <s> = 2, </s> = 3, <mask> = 4, <|eot_id|> = 5"
    ids = tokenizer.encode("the river")
    assert cut == f"{len(ids)} tokens: " + " ".join(f"{i}:{tokenizer.decode([i])!r}" for i in ids)


def test_extract_gives_the_tokenizer_of_the_training(llada: Command, trained: Trained) -> None:
    run = llada("tokenizer", "extract", "--checkpoint", trained.checkpoint, "--out", "deep/words")
    assert (run.code, run.out) == (0, "290 tokens, in deep/words\n")
    assert load_tokenizer("deep/words").fingerprint == read_checkpoint(trained.checkpoint)["llada"]["tokenizer"]


def test_without_a_subcommand_they_are_listed(llada: Command) -> None:
    run = llada("tokenizer")
    assert run.code == 0
    assert run.out.startswith("usage: llada tokenizer {train,show,extract} [OPTIONS]\n")
    assert "Train a tokenizer on documents and save it." in run.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sow"], "there is no command 'tokenizer sow'; did you mean tokenizer show?"),
        (["show", "--tokenizer=nowhere"], "there is no folder or file nowhere"),
        (["show", "--tokenizer=empty.txt"], "is not a SentencePiece model, or is damaged"),
        (["train", "--source=TextFiles", "--source.paths=empty.txt", "--out=words"], "empty.txt is empty"),
        (["train", "--source=TextFiles", "--source.paths=nowhere.txt", "--out=words"], "there is no file nowhere.txt"),
        (["train", "--source=TextFiles", "--source.paths=short.txt", "--out=words"], "vocab_size=4096"),
        (["extract", "--checkpoint=empty.txt", "--out=words"], "empty.txt is damaged"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    llada: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("boat")
    run = llada("tokenizer", *arguments)
    assert run.code == (2 if arguments == ["sow"] else 1)
    assert message in run.err
    assert not (tmp_path / "words").exists()
