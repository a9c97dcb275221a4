"""``llada chat`` with scripted input."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.cli import main
from llada.cli.chat import ChatSession
from llada.cli.dialogue import History, answer_sampler, context_length
from llada.cli.length import growing
from llada.data import Message, llada_template, plain_template
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from llada.samplers import UnmaskingSampler, left_to_right, low_confidence, remdm_cap
from llada.text import TextModel, load
from tests.cli.trainer_file import write_trainer_file
from tests.tiny_checkpoint import EOS, EOT, MASK, VOCAB_SIZE, write_checkpoint

FAST = ["--num_new_tokens", "8", "--sampler", "low_confidence", "--sampler.steps", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def checkpoint(folder):
    return str(write_trainer_file(folder, folder / "model.ckpt"))


@pytest.fixture
def talk(monkeypatch, capsys):
    def run(lines, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        code = main(["chat", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


class Parrot(torch.nn.Module):
    """Writes the same tokens at the end of every canvas, however long it is, and remembers what it was shown."""

    max_length = 64

    def __init__(self, answer: list[int]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[list[int]] = []

    def forward(self, tokens, attention_mask=None):
        self.seen.append(tokens[0].tolist())
        wanted = tokens.clone()
        wanted[:, -len(self.answer) :] = torch.tensor(self.answer)
        return 9.0 * torch.nn.functional.one_hot(wanted, VOCAB_SIZE).float()


@pytest.fixture
def parrot(folder):
    """A conversation with a model whose answers are known."""
    words = JsonTokenizer(folder)
    answer = [*words.encode("On the river"), EOT, EOS, EOS]
    model = DiffusionLM(Parrot(answer), MaskingProcess(MASK), sampler=low_confidence(steps=2))
    screen = Console(file=io.StringIO(), width=100)
    return ChatSession(TextModel(model, words), len(answer), 64, 0, screen, stream=False)


def test_the_history_keeps_the_end_of_a_turn_and_drops_the_end_of_text(parrot):
    parrot.context = None
    assert parrot.hear("Where is the boat?")
    assert parrot.history.messages[-1] == Message("assistant", "On the river")
    parrot.text.model.backbone.seen.clear()
    parrot.hear("And?")
    canvas = parrot.text.model.backbone.seen[0]
    prompt = canvas[: canvas.index(MASK)]
    chat = [Message("user", "Where is the boat?"), Message("assistant", "On the river"), Message("user", "And?")]
    assert prompt == llada_template().prompt(chat, parrot.text.tokenizer)
    assert prompt.count(EOT) == 3
    assert EOS not in prompt
    assert parrot.console.file.getvalue() == "On the river\nOn the river\n"


def test_the_oldest_turns_are_dropped_with_a_notice(parrot):
    for number in range(4):
        parrot.hear(f"Where is boat {number}?")
    out = parrot.console.file.getvalue()
    assert "-- the context is full: the first 2 messages are left out from here on" in out
    assert len(parrot.history.messages) == 8
    last = parrot.text.model.backbone.seen[-1]
    assert len(last) <= 64
    assert "boat 0" not in parrot.text.tokenizer.decode(last)
    assert "boat 3" in parrot.text.tokenizer.decode(last)


def test_a_message_that_fits_nowhere_is_refused_and_forgotten(parrot):
    parrot.hear("x" * 80)
    assert "only 57 fit beside the answer" in parrot.console.file.getvalue().replace("\n", " ")
    assert parrot.history.messages == []
    assert parrot.text.model.backbone.seen == []
    assert parrot.hear("short")
    assert parrot.history.messages[-1] == Message("assistant", "On the river")


def test_the_answer_is_drawn_in_place_while_it_comes_out(parrot):
    parrot.console = Console(file=io.StringIO(), width=80, force_terminal=True, highlight=False, color_system=None)
    parrot.stream = True
    parrot.hear("Where?")
    out = parrot.console.file.getvalue()
    assert "░" in out
    assert "\x1b[2K" in out  # the line is taken back
    assert out.rstrip().endswith("On the river")


def test_through_a_pipe_text_is_printed_as_soon_as_it_is_final_and_no_call_is_made_after_the_end(parrot):
    seen, write = [], parrot.console.file.write

    def note(text):
        seen.append((len(parrot.text.model.backbone.seen), text))
        return write(text)

    parrot.console.file.write = note
    parrot.pieces, parrot.text = True, replace(parrot.text, sampler=left_to_right())
    parrot.hear("Where?")
    written = [(calls, text) for calls, text in seen if text]
    assert "".join(text for _, text in written) == "On the river\n"
    assert parrot.history.messages[-1] == Message("assistant", "On the river")
    calls = [count for count, _ in written]
    end = parrot.num_new_tokens - 2  # EOT is there, the two EOS behind it are never asked for
    assert calls[0] == 1
    assert calls[-1] == end == len(parrot.text.model.backbone.seen)


def test_text_that_may_change_is_printed_when_it_is_finished(parrot):
    parrot.pieces, parrot.text = True, replace(parrot.text, sampler=remdm_cap(steps=6))
    parrot.hear("Where?")
    assert parrot.console.file.getvalue() == "On the river\n"


def test_each_answer_has_its_own_seed(parrot, monkeypatch):
    seeds, iterate = [], UnmaskingSampler.iterate

    def watched(self, *arguments, seed, **options):
        seeds.append(seed)
        return iterate(self, *arguments, seed=seed, **options)

    monkeypatch.setattr(UnmaskingSampler, "iterate", watched)
    parrot.seed = 7
    parrot.hear("a")
    parrot.hear("b")
    assert seeds == [7, 8]


def test_a_session(talk, checkpoint, tmp_path):
    saved = tmp_path / "talk.jsonl"
    lines = [
        "Hello",
        "",
        "/system Be kind.",
        "//who",
        f"/save {saved}",
        "/reset",
        "Again",
        f"/save {saved}",
        "/quit",
        "not read",
    ]
    code, out, err = talk(lines, checkpoint, *FAST)
    assert (code, err) == (0, "")
    assert "-- 5 messages added to" in out
    first, second = (json.loads(line)["messages"] for line in saved.read_text().splitlines())
    assert [(message["role"], message["content"]) for message in first[::2]] == [
        ("system", "Be kind."),
        ("assistant", first[2]["content"]),
        ("assistant", first[4]["content"]),
    ]
    assert (first[1]["content"], first[3]["content"]) == ("Hello", "/who")
    assert [message["content"] for message in second[:2]] == ["Be kind.", "Again"]


def test_a_session_is_reproducible_and_seeded(talk, checkpoint):
    noisy = [checkpoint, "--num_new_tokens", "12", "--sampler=random_remasking", "--sampler.steps=3"]
    first = talk(["Hello", "Where?"], *noisy)
    assert first == talk(["Hello", "Where?"], *noisy)
    assert first != talk(["Hello", "Where?"], *noisy, "--seed", "7")


def test_the_system_prompt_of_the_command_line(talk, checkpoint, tmp_path):
    talk(
        ["x", f"/save {tmp_path / 'a'}", "/system", f"/save {tmp_path / 'b'}"],
        checkpoint,
        *FAST,
        "--system",
        "Be brief.",
    )
    roles = [[m["role"] for m in json.loads((tmp_path / name).read_text())["messages"]] for name in "ab"]
    assert roles == [["system", "user", "assistant"], ["user", "assistant"]]


def test_help_and_unknown_commands(talk, checkpoint):
    _, out, _ = talk(["/help", "/what", "/save", "/save /no/such/folder/x"], checkpoint, *FAST)
    for name in ("/help", "/reset", "/system TEXT", "/save FILE", "/quit"):
        assert name in out
    assert "there is no command /what" in out
    assert "/save needs the name of a file" in out
    assert "/no/such/folder/x can't be written: No such file or directory" in out


def test_no_template_is_made_up(talk, tmp_path):
    folder = write_checkpoint(tmp_path / "base", template=None)
    base = str(write_trainer_file(folder, tmp_path / "base.ckpt"))
    code, _, err = talk(["Hello"], base, *FAST)
    assert code == 1
    assert "has no chat template, and none is made up" in err
    code, out, _ = talk(["Hello"], base, *FAST, "--template", "llada.data.plain_template")
    assert code == 0
    assert out.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_new_tokens", "0"], "num_new_tokens must be 1 or more; got 0"),
        (["--num_new_tokens", "300"], "an answer of 300 tokens leaves no room in the context of 192"),
        (["--context", "500"], "at most the model's 192 tokens; got 500"),
        (["--dtype", "int8"], "dtype must be float32, bfloat16, float16 or float64; got 'int8'"),
    ],
)
def test_what_does_not_fit_is_refused(talk, checkpoint, arguments, message):
    code, _, err = talk(["Hello"], checkpoint, *arguments)
    assert code == 1
    assert message in err


def test_an_interrupted_answer_is_forgotten(parrot, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parrot.text.model.backbone, "forward", stop)
    assert parrot.hear("Where?")
    assert "interrupted; the message is forgotten" in parrot.console.file.getvalue()
    assert parrot.history.messages == []


def test_how_answers_are_decoded_by_default(folder, checkpoint):
    words, chosen = load(str(folder), None, "cpu"), low_confidence(steps=3)
    reference = low_confidence(steps=128, block_length=32, stop_token_ids=EOS)
    assert answer_sampler(None, str(folder), words, 128) == reference
    assert answer_sampler(None, str(folder), words, 8) == low_confidence(steps=8, block_length=8, stop_token_ids=EOS)
    assert answer_sampler(chosen, str(folder), words, 8) is chosen
    assert answer_sampler(None, checkpoint, words, 8) is None  # the model's own


def test_stops(folder):
    words = JsonTokenizer(folder)
    for template in (None, llada_template(), plain_template()):
        text = TextModel(DiffusionLM(torch.nn.Identity(), MaskingProcess(MASK)), words, template)
        assert text.stop_token_ids == {EOS, EOT}
        assert text.answer([9, 8, EOT, 7, EOS]) == [9, 8]
        assert text.answer([9, 8]) == [9, 8]


def test_a_history_without_limit_keeps_everything(folder):
    model, history = DiffusionLM(torch.nn.Identity(), MaskingProcess(MASK)), History("Be kind.")
    history.messages += [Message("user", "boat " * 50)] * 3
    ids, dropped = history.prompt(TextModel(model, JsonTokenizer(folder), llada_template()), None)
    assert dropped == 0
    assert ids.count(EOT) == 4


def test_context_of_a_model_without_limit(folder):
    model = DiffusionLM(torch.nn.Identity(), MaskingProcess(MASK))
    loaded = TextModel(model, JsonTokenizer(folder))
    assert context_length(loaded, None) is None
    assert context_length(loaded, 10**6) == 10**6
    small = BidirectionalTransformer(VOCAB_SIZE, 8, 1, 1, max_length=50)
    assert context_length(TextModel(DiffusionLM(small, MaskingProcess(MASK)), loaded.tokenizer), 20) == 20


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_grows_until_it_ends(folder, stream):
    words = JsonTokenizer(folder)
    answer = [*words.encode("On the river"), EOS]

    class Reader(torch.nn.Module):
        """Writes the token of an answer that belongs to a place behind the prompt."""

        def forward(self, tokens, attention_mask=None):
            behind = torch.arange(tokens.shape[1]) - prompt
            wanted = torch.tensor(answer)[behind.clamp(0, len(answer) - 1)]
            return 9.0 * torch.nn.functional.one_hot(wanted, VOCAB_SIZE).float()[None]

    model = DiffusionLM(Reader(), MaskingProcess(MASK), sampler=low_confidence(block_length=2, steps=40))
    text = growing(TextModel(model, words), 40)
    prompt = len(llada_template().prompt([Message("user", "Where?")], words))
    screen = Console(file=io.StringIO(), width=100, force_terminal=stream, color_system=None)
    talk = ChatSession(text, 2, None, 0, screen, stream, pieces=True, most=40)
    talk.hear("Where?")
    assert talk.history.messages[-1] == Message("assistant", "On the river")
    assert screen.file.getvalue().rstrip().endswith("On the river")
