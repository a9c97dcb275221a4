r"""``llada chat``: talk to a model and watch its answers come out of the masks.

    llada chat LLaDA-8B-Instruct
    llada chat model.ckpt --template llada.data.llada_template --sampler low_confidence --sampler.steps 32
    printf 'Where is the boat?\nAnd the boy?\n' | llada chat LLaDA-8B-Instruct

At a terminal the answer is drawn anew in place after every step; through a pipe its text is printed from left to right
as soon as it is final.
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges, changed
from llada.cli.devices import usable
from llada.cli.dialogue import History, answer_sampler, context_length, with_bos
from llada.cli.kinds import Checkpoint, InputFolder
from llada.cli.length import growing, most_tokens
from llada.cli.limits import MAX_TOKENS, check_total
from llada.cli.options import run
from llada.data import ChatTemplate, Message
from llada.data.chat.conversations import ASSISTANT, USER
from llada.files.visible import visible
from llada.samplers import Canvas, LengthPolicy, Sampler, Step
from llada.text import TextModel, load

MASK_SIGN = "░"
HELP = {
    "/help": "show this",
    "/reset": "forget the conversation; the system prompt stays",
    "/system TEXT": "set the system prompt; without TEXT: take it away",
    "/save FILE": 'append the conversation to a JSON Lines file, as {"messages": [...]}',
    "/quit": "leave; so does the end of the input",
    "//...": "a message that begins with a slash",
}


def chat(
    checkpoint: Checkpoint,
    system: str = "",
    num_new_tokens: int = 128,
    sampler: Sampler | None = None,
    template: ChatTemplate | None = None,
    variables: dict[str, Any] | None = None,
    bos: bool | None = None,
    context: int | None = None,
    seed: int = 0,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    no_stream: bool = False,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
    max_tokens: int = MAX_TOKENS,
    max_new_tokens: int | None = None,
    length: LengthPolicy | None = None,
) -> None:
    """Talk to a model, turn by turn; /help lists what can be typed beside messages.

    Args:
        checkpoint: folder of a released checkpoint, its name on the Hugging Face hub, or a file of the Trainer.
        system: instruction in front of the conversation.
        num_new_tokens: tokens of an answer, the end of the turn included.
        sampler: how to decode: a preset such as low_confidence, or a class path; default: the model's own, or for a
            released checkpoint one token per call in blocks of 32 up to EOS.
        template: how messages become tokens, as a class path; default: the checkpoint's own.
        variables: what a template in Jinja sees besides, such as '{"enable_thinking": false}'.
        bos: whether the conversation begins with BOS; default: as the template has it.
        context: tokens of history and answer together; default: what the model takes.
        seed: random seed of the first answer; the next answer gets the next number.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        no_stream: show answers when they are finished.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
        max_tokens: tokens that one answer may be asked for, against a slip of the keyboard.
        max_new_tokens: longest answer: masks are appended block by block until it ends; default: num_new_tokens,
            all of them there from the start.
        length: when masks come and go, as a class such as Daedal; default: blocks are appended until the text ends.
    """
    if num_new_tokens < 1:
        raise ValueError(f"num_new_tokens must be 1 or more; got {num_new_tokens}")
    most = most_tokens(num_new_tokens, max_new_tokens)
    check_total("the new tokens of an answer", most, "max_tokens", max_tokens)
    text = load(checkpoint, tokenizer, usable(device), dtype, loading)
    text = replace(text, template=template, variables=variables or {})
    text.chat_template  # noqa: B018 - says that there is none before the first message is typed
    text = with_bos(text, bos)
    limit = context_length(text, context)
    if limit is not None and limit <= most:
        raise ValueError(f"an answer of {most} tokens leaves no room in the context of {limit}; ask for less")
    console = Console(highlight=False, soft_wrap=True)
    text = replace(text, sampler=answer_sampler(sampler, checkpoint, text, most))
    text = growing(changed(text, changes), max_new_tokens, length)
    live = console.is_terminal and not no_stream
    talk = ChatSession(text, num_new_tokens, limit, seed, console, live, not (live or no_stream), most=most)
    talk.history.system = system
    if sys.stdin.isatty():
        console.print("[dim]/help lists the commands, /quit leaves[/dim]")
    for line in _lines(console):
        if not talk.hear(line):
            return


def _lines(console: Console) -> Iterator[str]:
    """What is typed, or what comes through a pipe."""
    while True:
        try:
            yield console.input("[bold]> [/bold]") if sys.stdin.isatty() else input()
        except (EOFError, KeyboardInterrupt):
            return


@dataclass
class ChatSession:
    """A conversation at the terminal.

    Args:
        text: model and tokenizer, with the template and the sampler.
        num_new_tokens: tokens of an answer.
        context: tokens of a row; None for any number.
        seed: random seed of the next answer.
        console: where answers are shown.
        stream: whether to draw the answer while it comes out of the masks.
        pieces: whether otherwise to print text as soon as it is final.
        history: what has been said.
        most: tokens that an answer may grow to; those of ``num_new_tokens`` if they are more.
    """

    text: TextModel
    num_new_tokens: int
    context: int | None
    seed: int
    console: Console
    stream: bool
    pieces: bool = False
    history: History = field(default_factory=History)
    most: int = 0

    def __post_init__(self) -> None:
        self._dropped = 0

    def hear(self, line: str) -> bool:
        """Answer a line, or do what it says; False to leave."""
        if not line.strip():
            return True
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.strip().partition(" ")
            return self._command(name, rest.strip())
        self.history.messages.append(Message(USER, line.removeprefix("/") if line.startswith("//") else line))
        try:
            answer = self._answer()
        except (ValueError, KeyboardInterrupt) as error:
            self.history.messages.pop()
            self._note("interrupted; the message is forgotten" if isinstance(error, KeyboardInterrupt) else str(error))
            return True
        self.history.messages.append(Message(ASSISTANT, answer))
        return True

    def _command(self, name: str, rest: str) -> bool:
        commands: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
        }
        if name == "/quit":
            return False
        if name not in commands:
            self._note(f"there is no command {name}; /help lists them")
            return True
        commands[name](rest)
        return True

    def _help(self, rest: str) -> None:
        width = max(map(len, HELP))
        for name, line in HELP.items():
            self.console.print(Text(f"  {name:<{width}}  {line}"))

    def _reset(self, rest: str) -> None:
        self.history.messages.clear()
        self._dropped = 0
        self._note("the conversation is forgotten")

    def _system(self, rest: str) -> None:
        self.history.system = rest
        self._note("the system prompt is set" if rest else "there is no system prompt now")

    def _save(self, rest: str) -> None:
        if not rest:
            self._note("/save needs the name of a file")
            return
        entry = {"messages": [message.as_object() for message in self.history.whole()]}
        try:
            with Path(rest).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            self._note(f"{rest} can't be written: {error.strerror}")
            return
        self._note(f"{len(entry['messages'])} messages added to {rest}")

    def _answer(self) -> str:
        room = None if self.context is None else self.context - max(self.num_new_tokens, self.most)
        prompt, dropped = self.history.prompt(self.text, room)
        if dropped > self._dropped:
            self._note(f"the context is full: the first {dropped} messages are left out from here on")
        self._dropped = dropped
        made = self.text.canvas([prompt], self.num_new_tokens)
        steps = self.text.steps(made, self.seed)
        self.seed += 1
        return self._draw(made, steps) if self.stream else self._print(made, steps)

    def _draw(self, made: Canvas, steps: Iterator[Step]) -> str:
        """Draw the answer anew in place after every step, and leave its text there."""
        answer, begin = "", made.tokens.shape[1] - self.num_new_tokens
        with Live(console=self.console, transient=True, auto_refresh=False, vertical_overflow="visible") as live:
            for step in steps:
                row = step.tokens[0, begin:].tolist()
                answer = self.text.decode(row)
                picture = Text(visible(self.text.decode(row, show_mask=MASK_SIGN)))
                picture.highlight_regex(f"{MASK_SIGN}+", "dim")
                live.update(picture, refresh=True)
        self.console.print(Text(visible(answer)))
        return answer

    def _print(self, made: Canvas, steps: Iterator[Step]) -> str:
        """Print the answer piece by piece if no piece can change any more, or else when it is finished."""
        if not (self.pieces and self.text.decoding.is_final):
            steps = islice(deque(steps, maxlen=1), 1)  # the last one alone
        pieces = []
        for piece in self.text.stream(made, steps):
            self.console.print(Text(visible(piece) if self.console.is_terminal else piece), end="")
            self.console.file.flush()
            pieces.append(piece)
        self.console.print()
        return "".join(pieces)

    def _note(self, text: str) -> None:
        self.console.print(Text(f"-- {visible(text)}", style="dim"))


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(chat, command, arguments)
