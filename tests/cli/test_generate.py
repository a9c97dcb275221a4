"""``llada generate``: the same answers whatever the batches and interruptions."""

import json
import re

import pytest

from llada.cli import generate, main
from llada.cli.generate import repair
from tests.cli.trainer_file import write_trainer_file
from tests.tiny_checkpoint import write_checkpoint

ROWS = [
    {"prompt": "The little boy went down to the river and saw a boat."},
    {"id": "chat", "messages": [{"role": "user", "content": "Where is the boat? <|eot_id|>"}]},
    {"prompt": "The boat"},
    {"id": 40, "prompt": ""},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
]
NAMES = [0, "chat", 2, 40, 4]
OPTIONS = ["--num_new_tokens", "6", "--sampler", "random_remasking", "--sampler.steps", "3", "--seed", "100"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return str(write_trainer_file(folder, folder / "model.ckpt"))


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return str(path)


def read(path):
    return {entry["id"]: entry for entry in map(json.loads, path.read_text().splitlines())}


@pytest.fixture
def whole(checkpoint, rows, tmp_path):
    assert main(["generate", checkpoint, rows, str(tmp_path / "whole.jsonl"), *OPTIONS]) == 0
    return tmp_path / "whole.jsonl"


def test_every_row_is_answered_with_the_seed_of_its_place(whole):
    answers = read(whole)
    assert set(answers) == set(NAMES)
    assert [answers[name]["seed"] for name in NAMES] == [100, 101, 102, 103, 104]
    assert all(0 <= entry["num_tokens"] <= 6 and entry["calls"] == 3 for entry in answers.values())


@pytest.mark.parametrize("batch_size", ["1", "2"])
def test_batches_do_not_change_answers(checkpoint, rows, whole, tmp_path, batch_size):
    out = tmp_path / "out.jsonl"
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS, "--batch_size", batch_size]) == 0
    assert read(out) == read(whole)


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
@pytest.mark.parametrize("half", [0, 1, 20])
def test_an_interrupted_run_goes_on_where_it_stopped(checkpoint, rows, whole, tmp_path, capsys, kept, half):
    lines = whole.read_bytes().splitlines(keepends=True)
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:half])
    capsys.readouterr()
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert f"{5 - kept} answers written" in capsys.readouterr().out


def test_answers_come_in_the_order_of_the_questions(checkpoint, rows, whole, tmp_path, monkeypatch):
    assert [json.loads(line)["id"] for line in whole.read_text().splitlines()] == NAMES
    assert not any("prompt" in entry or "messages" in entry for entry in read(whole).values())
    before = whole.stat().st_mtime_ns
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr("llada.cli.generate._sort", lambda path, rows: None)  # as an interruption would leave it
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS, "--with_prompts"]) == 0
    monkeypatch.undo()
    written = read(out)
    assert next(iter(written)) == 40  # the shortest is computed first
    for name, asked in zip(NAMES, ROWS, strict=True):
        assert {key: written[name].pop(key) for key in ("prompt", "messages") if key in asked} == {
            key: value for key, value in asked.items() if key != "id"
        }
    assert written == read(whole)
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS]) == 0  # nothing is left but the order
    assert list(read(out)) == NAMES
    assert main(["generate", checkpoint, rows, str(whole), *OPTIONS]) == 0
    assert whole.stat().st_mtime_ns == before


def test_answers_that_another_program_took_away_are_missed(checkpoint, rows, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    sort = generate._sort
    monkeypatch.setattr(generate, "_sort", lambda path, rows: (path.write_bytes(b""), sort(path, rows)))
    capsys.readouterr()
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS]) == 1
    assert "lacks 5 answers" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_row_that_failed_to_be_written_whole_is_cut_off_and_the_others_stay(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": 1, "seed": 0}\n{"id": 2, "se')
    assert list(repair(path)) == [1]
    assert path.read_text() == '{"id": 1, "seed": 0}\n'
    assert repair(tmp_path / "missing") == {}


BAD_INPUTS = {
    "neither": ('{"text": "x"}', "line 1: there must be either a 'prompt' or 'messages'"),
    "both": ('{"prompt": "x", "messages": []}', "line 1: there must be either"),
    "no text": ('{"prompt": 3}', "line 1: field 'prompt' must be text; got int"),
    "no list": ('{"messages": {}}', "line 1: field 'messages' must be a list with at least one message"),
    "no object": ('{"messages": ["x"]}', "line 1: a message must be an object"),
    "no content": ('{"messages": [{"role": "user"}]}', "line 1: there is no field 'content'"),
    "bad role": ('{"messages": [{"role": "<|", "content": "x"}]}', "line 1: a message has the role '<|'"),
    "bad id": ('{"id": 1.5, "prompt": "x"}', "line 1: an id must be a number or text; got 1.5"),
    "one id twice": ('{"id": 1, "prompt": "x"}\n{"prompt": "y"}', "the id 1 occurs twice"),
    "too long": (json.dumps({"prompt": "x" * 200}), "row 0 has 200 tokens"),
    "surrogate": ('{"prompt": "\\ud800"}', "line 1: malformed JSON: \\ud800 is half a character"),
    "malformed": ("{", "line 1: malformed JSON"),
}


@pytest.mark.parametrize(("content", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_rows_are_named_before_anything_is_computed(checkpoint, tmp_path, capsys, content, message):
    (tmp_path / "in.jsonl").write_text(content)
    out = tmp_path / "out.jsonl"
    assert main(["generate", checkpoint, str(tmp_path / "in.jsonl"), str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_another_runs_output_is_refused(checkpoint, rows, whole, capsys):
    before = whole.read_bytes()
    assert main(["generate", checkpoint, rows, str(whole), *OPTIONS[:-1], "7"]) == 1
    assert "with seed 100, but here it gets 7;" in capsys.readouterr().err
    whole.write_bytes(before + b'{"id": "x", "seed": 1}\n')
    assert main(["generate", checkpoint, rows, str(whole), *OPTIONS]) == 1
    assert "has a row 'x' that the input hasn't" in capsys.readouterr().err
    whole.write_bytes(b"hello\n" + before)
    assert main(["generate", checkpoint, rows, str(whole), *OPTIONS]) == 1
    assert "line 1: no answer with an 'id'" in capsys.readouterr().err


def test_messages_need_a_template_and_prompts_do_not(tmp_path, rows, capsys):
    folder = write_checkpoint(tmp_path / "base", template=None)
    base = str(write_trainer_file(folder, tmp_path / "base.ckpt"))
    assert main(["generate", base, rows, str(tmp_path / "out.jsonl"), *OPTIONS]) == 1
    assert "line 2: the checkpoint has no chat template, and none is made up" in capsys.readouterr().err
    (tmp_path / "plain.jsonl").write_text(json.dumps(ROWS[2]))
    assert main(["generate", base, str(tmp_path / "plain.jsonl"), str(tmp_path / "out.jsonl"), *OPTIONS]) == 0


@pytest.mark.parametrize("option", ["num_new_tokens", "batch_size"])
def test_sizes_are_checked(checkpoint, rows, tmp_path, capsys, option):
    assert main(["generate", checkpoint, rows, str(tmp_path / "out.jsonl"), f"--{option}", "0"]) == 1
    assert f"{option} must be 1 or more; got 0" in capsys.readouterr().err


def test_answers_match_an_expression(checkpoint, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["generate", checkpoint, rows, str(out), *OPTIONS, "--regex", "[a-z]{2,4}[.!]"]) == 0
    texts = [entry["text"] for entry in read(out).values()]
    assert len(texts) == len(NAMES)
    assert all(re.fullmatch("[a-z]{2,4}[.!]", text) for text in texts)


def test_answers_grow_until_they_end(checkpoint, rows, tmp_path, capsys):
    def run(name, *options):
        assert main(["generate", checkpoint, rows, str(tmp_path / name), "--seed", "100", *options]) == 0
        return read(tmp_path / name)

    blocks = ["--sampler", "low_confidence", "--sampler.block_length", "2", "--sampler.temperature", "1.0"]
    growing = ["--num_new_tokens", "2", "--max_new_tokens", "12", *blocks, "--sampler.steps", "12"]
    answers, others = run("a.jsonl", *growing), run("b.jsonl", *growing, "--batch_size", "1")
    assert answers == others
    assert {entry["calls"] for entry in answers.values()} == {12}  # of two masks at first; nothing ends here
    for options, message in (
        (["--num_new_tokens", "9", "--max_new_tokens", "8", *blocks], "is less than the num_new_tokens=9"),
        (["--max_new_tokens", "130"], "WholeCanvas can't follow a canvas that grows"),
        ([*growing, "--regex", "[a-z]*"], "RegularExpression looks at the whole canvas"),
    ):
        assert main(["generate", checkpoint, rows, str(tmp_path / "c.jsonl"), *options]) == 1
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_pipe_has_lines_in_the_place_of_the_bar(checkpoint, rows, tmp_path, capsys, monkeypatch):
    now = iter(range(0, 1000, 5))
    monkeypatch.setattr("llada.cli.generate.time.monotonic", lambda: float(next(now)))
    entries = list(generate._with_lines(({"id": n} for n in range(5)), total=1007, there=1000))
    assert [entry["id"] for entry in entries] == [0, 1, 2, 3, 4]
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.splitlines() == [
        "1,002 of 1,007 answers, about 0:25 to go",
        "1,004 of 1,007 answers, about 0:15 to go",
    ]
    monkeypatch.undo()
    assert main(["generate", checkpoint, rows, str(tmp_path / "out.jsonl"), *OPTIONS]) == 0
    assert "\u2501" not in capsys.readouterr().err  # of a bar
