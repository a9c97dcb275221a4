"""The questions that the Language Model Evaluation Harness asks of a model, answered by an `EvaluationModel`.

The harness itself isn't needed here: its requests are objects with ``args``, and perhaps the names of a task and of a
document.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from rich.console import Console
from rich.progress import track

from llada.data import Message
from llada.data.chat.conversations import ASSISTANT
from llada.evaluation.evaluation_model import EmptyContinuation, EvaluationModel, Pair, Question
from llada.evaluation.notes import Notes, name_of
from llada.evaluation.options import draws, endings, num_new_tokens, temperature_of, unknown, with_draws
from llada.samplers import Sampler

REQUESTS = 256
"""Requests that are scored at once: enough to sort by length, few enough to see progress."""
REFUSED = (float("-inf"), False)
"""The score of a row that can't be scored."""
DEFAULT_LENGTH = 256
"""New tokens where neither the model nor the task says how many; the harness's own number."""


class Adapter:
    """Answers the questions that the harness asks of a model, by means of an `EvaluationModel`.

    A row that doesn't fit is cut, and one that can't be answered is left out: `notes` counts and names them.

    Args:
        model: does the work.
    """

    def __init__(self, model: EvaluationModel) -> None:
        super().__init__()
        self.model, self.notes = model, Notes(model.strict)
        self._conversations: dict[str, list[int]] = {}
        self._refused: dict[str, str] = {}
        self._failed = 0

    cache_hook: Any

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations; those of one context share their masks."""
        self._failed = 0
        seeds = dict[str, int]()
        pairs = [self._pairs(name_of(request, number), *request.args) for number, request in enumerate(requests)]
        seed = [seeds.setdefault(request.args[0], len(seeds)) for request in requests]
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(_length, pairs[i] or ())))
        found: list[tuple[float, bool]] = [REFUSED] * len(pairs)

        def values(chunk: list[int]) -> list[tuple[float, bool]]:
            each = [(pair, seed[i]) for i in chunk for pair in pairs[i] or ()]
            scored = iter(self.model.log_likelihoods([pair for pair, _ in each], [place for _, place in each]))
            return [REFUSED if pairs[i] is None else _sum(list(islice(scored, len(pairs[i] or ())))) for i in chunk]

        for start in _progress(range(0, len(order), REQUESTS), "likelihoods", disable_tqdm):
            chunk = order[start : start + REQUESTS]
            for index, value in self._one_by_one(values, chunk, requests, REFUSED):
                found[index] = value
                self.cache_hook.add_partial("loglikelihood", requests[index].args, value)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts."""
        self._failed = 0
        found = []

        def values(numbers: list[int]) -> list[tuple[float, bool]]:
            windows = [self.model.windows(requests[number].args[0]) for number in numbers]
            seeds = [number for number, pieces in zip(numbers, windows, strict=True) for _ in pieces]
            scored = iter(self.model.log_likelihoods(list(chain.from_iterable(windows)), seeds))
            return [_sum(list(islice(scored, len(pieces)))) for pieces in windows]

        for number, request in enumerate(_progress(requests, "texts", disable_tqdm)):
            ((_, (value, _)),) = self._one_by_one(values, [number], requests, REFUSED)
            found.append(value)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, up to the first of the texts that end them; "" where a row can't be answered."""
        self._failed = 0
        made = [
            self._question(number, request.args[0], request.args[1], request) for number, request in enumerate(requests)
        ]
        asked = [(index, question) for index, question in enumerate(made) if question is not None]
        answers = [""] * len(requests)
        for index, text in _progress(self._written(asked, requests), "answers", disable_tqdm, len(asked)):
            answers[index] = text
            self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return answers

    def _written(self, asked: list[tuple[int, Question]], requests: Sequence[Any]) -> Iterator[tuple[int, str]]:
        """Answers as they are done; a batch with a row that can't be written is written row by row."""
        done = set()
        try:
            for place, text in self.model.generate([question for _, question in asked]):
                done.add(place)
                yield asked[place][0], text
        except ValueError:
            left = [entry for place, entry in enumerate(asked) if place not in done]
            questions = dict(left)

            def write(numbers: list[int]) -> list[str]:
                return [text for _, text in self.model.generate([questions[numbers[0]]])]

            for index, _ in left:
                yield from self._one_by_one(write, [index], requests, "")

    def _one_by_one(
        self, values: Callable[[list[int]], list[Any]], numbers: list[int], requests: Sequence[Any], refused: Any
    ) -> Iterator[tuple[int, Any]]:
        """The value of each request; one that fails is counted and named, and the others go on.

        Raises:
            ValueError: if every request fails: then it isn't the row.
        """
        try:
            yield from zip(numbers, values(numbers), strict=True)
        except ValueError as error:
            if len(numbers) > 1:
                for number in numbers:
                    yield from self._one_by_one(values, [number], requests, refused)
                return
            self._failed += 1
            if self.model.strict or self._failed == len(requests):
                raise
            self.notes.add(f"can't be scored or answered ({error})", name_of(requests[numbers[0]], numbers[0]))
            yield numbers[0], refused

    def _pairs(self, row: str, context: str, continuation: str) -> list[Pair] | None:
        """What is to be scored for a request: nothing where the continuation is empty, for that is certain."""
        if context in self._refused:
            return None
        try:
            pair = self.model.encode_pair(context, continuation, self._conversations.get(context))
        except EmptyContinuation:
            self.notes.add("the continuation is empty and scores 0", row)
            return []
        fitting = self.model.fit_pair(pair)
        if len(fitting) > 1:
            self.notes.add("the continuation is longer than a row and was scored in pieces", row)
        elif len(fitting[0].context) < len(pair.context):
            self.notes.add("the context was cut from the left", row)
        return fitting

    def _question(self, number: int, context: str, options: dict[str, Any], request: Any = None) -> Question | None:
        row, text = name_of(request, number), self.model.text
        if context in self._refused:
            return None
        for option in unknown(options):
            self.notes.add(f"no sampler has the task's option {option}, which was left out", row)
        ids = self._conversations.get(context)
        question = Question(
            text.encode(context) if ids is None else ids,
            endings(options),
            self.model.num_new_tokens or num_new_tokens(options, DEFAULT_LENGTH),
            number,
            self._sampler(options, row),
        )
        fitting = self.model.fit_question(question)
        if fitting.num_new_tokens < question.num_new_tokens:
            self.notes.add(f"the answer may have fewer than the task's {question.num_new_tokens} new tokens", row)
        if len(fitting.ids) < len(question.ids):
            self.notes.add("the question was cut from the left", row)
        return fitting

    def _sampler(self, options: dict[str, Any], row: str) -> Sampler | None:
        """The sampler that draws as the task asks; None for the model's own way."""
        asked, text = draws(options), self.model.text
        if asked is None:
            return None
        if not asked:
            if (temperature := temperature_of(text.decoding)) > 0:
                self.notes.add(
                    f"the task asks for greedy decoding, the sampler draws at temperature {temperature}", row
                )
            return None
        if text.sampler is None:
            raise ValueError(
                "the task asks for random draws (do_sample) and the model decodes as it was saved to; say how to draw "
                "with a sampler, such as low_confidence(temperature=1.0)"
            )
        changed = with_draws(text.sampler, asked)
        if changed != text.sampler:
            wanted = ", ".join(f"{name}={value}" for name, value in asked.items())
            self.notes.add(f"the task's {wanted} took the place of the sampler's own", row)
        return changed

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness's caches which tokens its requests were made for."""
        return self.model.text.tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, for the record."""
        text = self.model.text
        return str(text.template or getattr(text.tokenizer, "chat_template", None) or "")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the harness keeps it: readable, and known again when it comes back as a context.

        Its tokens are made from the messages, not from that text, which could forge special tokens. A conversation that
        the template refuses is kept as a row that can't be answered.

        Args:
            chat_history: the turns.
            add_generation_prompt: False where the last turn is an answer that the task has begun (``gen_prefix``).

        Raises:
            ValueError: if there is no template.
        """
        text_model, begun = self.model.text, ""
        _ = text_model.chat_template
        messages = [Message(entry["role"], entry["content"]) for entry in chat_history]
        last = messages[-1].content if messages and messages[-1].role == ASSISTANT else None
        if not add_generation_prompt and isinstance(last, str):
            begun = last
            del messages[-1]
        tokenizer = text_model.tokenizer
        try:
            ids = text_model.encode_messages(messages) + tokenizer.encode(begun)
        except ValueError as error:
            if self.model.strict:
                raise
            text = f"[conversation {len(self._refused)} was refused: {error}]"
            self._refused[text] = str(error)
            self.notes.add(f"the chat template refused the conversation ({error})", repr(messages)[:80])
            return text
        names = {token: name for name, token in tokenizer.special_tokens.items()}
        text = "".join(names.get(token) or tokenizer.decode([token]) for token in ids)
        self._conversations[text] = ids
        return text


def _length(pair: Pair) -> int:
    return len(pair.context) + len(pair.continuation)


def _sum(values: list[tuple[float, bool]]) -> tuple[float, bool]:
    """The log-likelihood of pieces one after the other; of none, that of what is certain."""
    return sum(value for value, _ in values), all(greedy for _, greedy in values)


def _progress(items: Iterable[Any], title: str, hidden: bool, total: int | None = None) -> Iterator[Any]:
    yield from track(items, title, total, console=Console(stderr=True), disable=hidden, transient=True)
