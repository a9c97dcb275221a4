"""Every option of every text command reaches what it is for: each is given alone, with a value that isn't its default.

A check looks at what arrived (see `Seen`). It must hold with the option and fail without it, so an option that is read
and forgotten fails, and so does a check that would hold anyway.
"""

import inspect
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released.options import LoadOptions
from llada.cli import chat, evaluate, generate, main, sample, score
from llada.data import JinjaTemplate, Tokenizer, load_tokenizer, plain_template
from llada.data.chat.chat_template import FixedBos
from llada.evaluation import PROTOCOLS, EvaluationModel
from llada.metrics import ConditionalLikelihood, UnderSampler
from llada.module import DiffusionLM
from llada.process import MaskingProcess
from llada.samplers import (
    Daedal,
    LengthPolicy,
    Quota,
    RegularExpression,
    ResizingSampler,
    UnmaskingSampler,
    UntilStop,
    comb,
    low_confidence,
)
from llada.text import TextModel
from tests.tiny_checkpoint import BOS, MASK, TEMPLATE, write_tokenizer

PROTOCOL, CODE = "llada-8b-base/gsm8k", "llada-8b-base/humaneval"
SAMPLER = ["--sampler", "low_confidence", "--sampler.steps", "2"]


@dataclass
class Seen:
    """What arrived where."""

    loaded: list[Any] = field(default_factory=list)
    """checkpoint, tokenizer, device, dtype, and what all commands share."""
    model: TextModel | None = None
    """With which the canvases were made."""
    prompts: list[list[str]] = field(default_factory=list)
    """Texts of the prompts of each canvas; masks as "#"."""
    num_new_tokens: int = 0
    begun: str = ""
    """The first row before the first step; masks as "#"."""
    seeds: list[Any] = field(default_factory=list)
    likelihood: dict[str, Any] = field(default_factory=dict)
    bound: tuple[Any, ...] = ()
    evaluated: EvaluationModel | None = None
    tasks: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    session: inspect.BoundArguments | None = None
    limit: int = 0
    """What may be asked for in all."""
    watched: bool = False
    out: str = ""

    def rules(self) -> list[RegularExpression]:
        assert self.model is not None
        return [rule for rule in self.model.decoding.adjustments if isinstance(rule, RegularExpression)]

    def regexes(self) -> list[str]:
        return [rule.pattern for rule in self.rules()]

    def max_states(self) -> list[int]:
        return [rule.max_states for rule in self.rules()]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    pytest.importorskip("tokenizers")
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), mask=MASK)


@pytest.fixture
def tiny(words: Tokenizer) -> TextModel:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(words.vocab_size, 16, 1, 2, max_length=2000)
    return TextModel(DiffusionLM(backbone, MaskingProcess(MASK)).eval(), words)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files that the options name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"prompt": "The boat"}\n{"prompt": "The boat"}\n')
    (tmp_path / "other.jsonl").write_text('{"prompt": "The hill"}\n')
    said = [{"role": "user", "content": "The hill", "weight": 1}]
    (tmp_path / "labelled.jsonl").write_text(json.dumps({"messages": said}))
    (tmp_path / "prompts.txt").write_text("The hill\n")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "The hill", "answer": " is red"}\n')
    (tmp_path / "text.txt").write_text("The hill is red.")
    (tmp_path / "there.html").write_text("mine")
    for name in ("a.ckpt", "other.ckpt"):
        (tmp_path / name).touch()
    for name in ("words", "mine"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, folder: Path, tiny: TextModel) -> Seen:
    """Spies on everything that a command hands its options to."""
    found = Seen()

    def load(*arguments: Any) -> TextModel:
        found.loaded = [*arguments]
        return tiny

    for module in (chat, evaluate, generate, sample, score):
        monkeypatch.setattr(module, "load", load)
        monkeypatch.setattr(module, "check_total", lambda *arguments: setattr(found, "limit", arguments[-1]))
    spy_on_writing(monkeypatch, found)
    spy_on_scoring(monkeypatch, found, tiny.model)
    spy_on_the_screen(monkeypatch, found)
    return found


def spy_on_writing(monkeypatch: pytest.MonkeyPatch, found: Seen) -> None:
    canvas, steps, filled = TextModel.canvas, TextModel.steps, TextModel.generate

    def watched_canvas(self: TextModel, prompts: Any, num_new_tokens: int) -> Any:
        found.model, found.num_new_tokens = self, num_new_tokens
        found.prompts.append([self.tokenizer.decode(prompt, show_mask="#") for prompt in prompts])
        return canvas(self, prompts, num_new_tokens)

    def watched_steps(self: TextModel, made: Any, seed: Any) -> Iterator[Any]:
        found.seeds.append(seed)
        found.begun = self.tokenizer.decode(made.tokens[0].tolist(), show_mask="#")
        return steps(self, made, seed)

    def watched_generate(self: TextModel, made: Any, seed: Any) -> Any:
        found.seeds += seed.tolist()
        return filled(self, made, seed)

    monkeypatch.setattr(TextModel, "canvas", watched_canvas)
    monkeypatch.setattr(TextModel, "steps", watched_steps)
    monkeypatch.setattr(TextModel, "generate", watched_generate)


def spy_on_scoring(monkeypatch: pytest.MonkeyPatch, found: Seen, model: DiffusionLM) -> None:
    likelihood, bound_of = model.log_likelihood, score.bound_of

    def watched_likelihood(*arguments: Any, **options: Any) -> Any:
        found.likelihood = dict(zip(("prompts", "answers"), arguments, strict=True)) | options
        return likelihood(*arguments, **options)

    def watched_bound(*arguments: Any) -> Any:
        found.bound = arguments
        return bound_of(*arguments)

    def run_tasks(model: EvaluationModel, tasks: list[str], **options: Any) -> dict[str, Any]:
        found.evaluated, found.tasks, found.options = model, tasks, options
        return {"results": {"task": {"acc,none": 0.5}}, "notes": {}}

    monkeypatch.setattr(model, "log_likelihood", watched_likelihood)
    monkeypatch.setattr(score, "bound_of", watched_bound)
    monkeypatch.setattr(evaluate.harness, "run_tasks", run_tasks)


def spy_on_the_screen(monkeypatch: pytest.MonkeyPatch, found: Seen) -> None:
    chat_session, watch = chat.ChatSession, sample.watch

    def session(*arguments: Any, **options: Any) -> Any:
        found.session = inspect.signature(chat_session).bind(*arguments, **options)
        return chat_session(*arguments, **options)

    def watched(*arguments: Any, **options: Any) -> Any:
        found.watched = True
        return watch(*arguments, **options)

    monkeypatch.setattr(chat, "ChatSession", session)
    monkeypatch.setattr(sample, "watch", watched)
    monkeypatch.setattr("sys.stdin", io.StringIO("Where?\n"))


BLOCKS = ["--sampler", "low_confidence", "--sampler.block_length", "2", "--sampler.steps", "6"]


def grows_to(seen: "Seen") -> int | None:
    sampler = written_by(seen).sampler
    return sampler.max_new_tokens if isinstance(sampler, UntilStop) else None


GROWS = ["--num_new_tokens", "4", "--sampler", "fast_dllm", "--sampler.block_length", "2"]


def policy(seen: "Seen") -> LengthPolicy | None:
    sampler = written_by(seen).sampler
    return sampler.length if isinstance(sampler, ResizingSampler) else None


DRAFT = ["--prompt", "The boat", "--draft", " is red", "--num_new_tokens", "6", "--sampler", "LevenshteinSampler"]
DRAFT += ["--sampler.delete_token_id", "1", "--sampler.insert_token_id", "2", "--sampler.max_edits", "1"]


def drafts(seen: "Seen") -> bool:
    return getattr(written_by(seen).sampler, "draft", False) and seen.begun.startswith("The boat is red#")


Check = Callable[[Seen], bool]
Case = tuple[list[str], Check]


SHARED = [
    "--mask",
    "7",
    "--revision",
    "main",
    "--adapter",
    "mine",
    "--ignore_config_field",
    "a",
    "--ignore_config_field",
    "b",
]
SHARED += ["--backbone", "shift=false", "--backbone", "max_length=9", "--backbone", "attention=plain"]
BACKBONE = {"shift": False, "max_length": 9, "attention": "plain"}


def loading() -> dict[str, Case]:
    """The options that every command hands to `load`."""
    return {
        "tokenizer": (["--tokenizer", "words"], lambda seen: seen.loaded[1] == "words"),
        "device": (["--device", "cpu:0"], lambda seen: seen.loaded[2] == "cpu:0"),
        "dtype": (["--dtype", "float64"], lambda seen: seen.loaded[3] == "float64"),
        "loading": (SHARED, lambda seen: seen.loaded[4] == LoadOptions(7, "main", ("a", "b"), BACKBONE, "mine")),
    }


CHANGES = ["--temperature", "0.5", "--steps", "3"]


def changed(text: TextModel | None) -> bool:
    assert text is not None
    used = text.decoding
    assert isinstance(used, UnmaskingSampler)
    return (used.proposal.temperature, used.amount) == (0.5, Quota(3))


def sampled(seen: Seen) -> bool:
    assert seen.model is not None
    return seen.model.sampler == low_confidence(steps=2)


SAMPLE: dict[str, Case] = {
    **loading(),
    "checkpoint": (["--checkpoint", "other.ckpt"], lambda seen: seen.loaded[0] == "other.ckpt"),
    "prompt": (["--prompt", "The hill"], lambda seen: seen.prompts == [["The hill"]]),
    "prompts_file": (["--prompts_file", "prompts.txt"], lambda seen: seen.prompts == [["The hill"]]),
    "infill": (["--infill", "The [MASK:2] hill"], lambda seen: seen.prompts == [["The ## hill"]]),
    "num_samples": (["--num_samples", "3"], lambda seen: seen.prompts == [[""] * 3]),
    "num_new_tokens": (["--num_new_tokens", "3"], lambda seen: seen.num_new_tokens == 3),
    "sampler": (SAMPLER, sampled),
    "regex": (["--regex", "a[bc]"], lambda seen: seen.regexes() == ["a[bc]"]),
    "bos": (["--bos", "true"], lambda seen: written_by(seen).bos is True),
    "seed": (["--seed", "7"], lambda seen: seen.seeds == [7]),
    "batch_size": (["--batch_size", "1", "--num_samples", "2"], lambda seen: seen.prompts == [[""], [""]]),
    "page": (["--page", "a.html"], lambda seen: Path("a.html").is_file()),
    "picture": (["--picture", "a.svg"], lambda seen: Path("a.svg").is_file()),
    "changes": (CHANGES, lambda seen: changed(seen.model)),
    "show": (["--show"], lambda seen: seen.watched),
    "jsonl": (["--jsonl"], lambda seen: seen.out.startswith("{")),
    "overwrite": (["--page", "there.html", "--overwrite"], lambda seen: Path("there.html").read_text() != "mine"),
    "regex_max_states": (["--regex", "ab", "--regex_max_states", "9"], lambda seen: seen.max_states() == [9]),
    "max_new_tokens": (
        ["--num_new_tokens", "4", "--max_new_tokens", "6", *BLOCKS],
        lambda seen: grows_to(seen) == 6 and seen.num_new_tokens == 4,
    ),
    "length": (
        [*GROWS, "--max_new_tokens", "6", "--length", "Daedal", "--length.expand_by", "3"],
        lambda seen: policy(seen) == Daedal(expand_by=3),
    ),
    "draft": (DRAFT, drafts),
    "max_tokens": (["--max_tokens", "999"], lambda seen: seen.limit == 999),
}

GENERATE: dict[str, Case] = {
    **loading(),
    "checkpoint": (["--checkpoint", "other.ckpt"], lambda seen: seen.loaded[0] == "other.ckpt"),
    "input": (["--input", "other.jsonl"], lambda seen: seen.prompts == [["The hill"]]),
    "output": (["--output", "other.out"], lambda seen: Path("other.out").is_file()),
    "num_new_tokens": (["--num_new_tokens", "3"], lambda seen: seen.num_new_tokens == 3),
    "batch_size": (["--batch_size", "1"], lambda seen: seen.prompts == [["The boat"], ["The boat"]]),
    "sampler": (SAMPLER, sampled),
    "regex": (["--regex", "a[bc]"], lambda seen: seen.regexes() == ["a[bc]"]),
    "template": (["--template", "llada.data.plain_template"], lambda seen: template(seen) == plain_template()),
    "variables": (
        ["--variables", '{"enable_thinking": false}'],
        lambda seen: written_by(seen).variables == {"enable_thinking": False},
    ),
    "changes": (CHANGES, lambda seen: changed(seen.model)),
    "with_prompts": (["--with_prompts"], lambda seen: '"prompt": "The boat"' in Path("out.jsonl").read_text()),
    "ignore_fields": (
        ["--input", "labelled.jsonl", "--ignore_fields", "weight"],
        lambda seen: "The hill" in seen.prompts[0][0],
    ),
    "bos": (["--bos", "true"], lambda seen: written_by(seen).bos is True),
    "seed": (["--seed", "7"], lambda seen: seen.seeds == [7, 8]),
    "regex_max_states": (["--regex", "ab", "--regex_max_states", "9"], lambda seen: seen.max_states() == [9]),
    "max_new_tokens": (
        ["--num_new_tokens", "4", "--max_new_tokens", "6", *BLOCKS],
        lambda seen: grows_to(seen) == 6 and seen.num_new_tokens == 4,
    ),
    "length": (
        [*GROWS, "--max_new_tokens", "6", "--length", "Daedal", "--length.expand_by", "3"],
        lambda seen: policy(seen) == Daedal(expand_by=3),
    ),
    "max_tokens": (["--max_tokens", "999"], lambda seen: seen.limit == 999),
}

CHAT: dict[str, Case] = {
    **loading(),
    "checkpoint": (["--checkpoint", "other.ckpt"], lambda seen: seen.loaded[0] == "other.ckpt"),
    "system": (["--system", "Be kind."], lambda seen: "Be kind." in seen.prompts[0][0]),
    "num_new_tokens": (["--num_new_tokens", "3"], lambda seen: seen.num_new_tokens == 3),
    "sampler": (SAMPLER, sampled),
    "template": (["--template", "llada.data.plain_template"], lambda seen: template(seen) == plain_template()),
    "variables": (
        ["--variables", '{"enable_thinking": false}'],
        lambda seen: written_by(seen).variables == {"enable_thinking": False},
    ),
    "bos": (["--bos", "false"], lambda seen: written_by(seen).template == FixedBos(JinjaTemplate(TEMPLATE), False)),
    "changes": (CHANGES, lambda seen: changed(seen.model)),
    "context": (["--context", "150"], lambda seen: session(seen)["context"] == 150),
    "seed": (["--seed", "7"], lambda seen: seen.seeds == [7]),
    "no_stream": (["--no_stream"], lambda seen: session(seen)["pieces"] is False),
    "max_new_tokens": (
        ["--num_new_tokens", "4", "--max_new_tokens", "6", *BLOCKS],
        lambda seen: grows_to(seen) == 6 and seen.num_new_tokens == 4,
    ),
    "length": (
        [*GROWS, "--max_new_tokens", "6", "--length", "Daedal", "--length.expand_by", "3"],
        lambda seen: policy(seen) == Daedal(expand_by=3),
    ),
    "max_tokens": (["--max_tokens", "999"], lambda seen: seen.limit == 999),
}

TEXT = ["--text", "text.txt", "--max_length", "8"]
SCORE: dict[str, Case] = {
    **loading(),
    "checkpoint": (["--checkpoint", "other.ckpt"], lambda seen: seen.loaded[0] == "other.ckpt"),
    "prompt": (["--prompt", "The hill", "--answer", " is"], lambda seen: scored(seen, "prompts") == ["The hill"]),
    "answer": (["--prompt", "The", "--answer", " hill"], lambda seen: scored(seen, "answers") == [" hill"]),
    "pairs": (["--pairs", "pairs.jsonl"], lambda seen: scored(seen, "answers") == [" is red"]),
    "text": (TEXT, lambda seen: seen.bound[:1] == ("The hill is red.",)),
    "max_length": (TEXT, lambda seen: seen.bound[2:3] == (8,)),
    "draws": ([*TEXT, "--draws", "3"], lambda seen: seen.bound[3:4] == (3,)),
    "batch_size": ([*TEXT, "--batch_size", "2"], lambda seen: seen.bound[4:5] == (2,)),
    "sampler": (
        [*TEXT, "--sampler", "comb", "--sampler.stride", "3"],
        lambda seen: seen.bound[7:] == (comb(stride=3),),
    ),
    "changes": (
        [*TEXT, "--sampler", "UnmaskingSampler", "--sampler.order", "RandomOrder", *CHANGES],
        lambda seen: len(seen.bound) > 7 and seen.bound[7].amount == Quota(3),
    ),
    "estimator": (
        ["--estimator.num_samples", "64"],
        lambda seen: seen.likelihood.get("estimator") == ConditionalLikelihood(64),
    ),
    "bos": (["--bos", "true"], lambda seen: seen.likelihood.get("prompts", [[0, 0]])[0][0] == BOS),
    "seed": (["--seed", "7"], lambda seen: seen.likelihood["seed"].tolist() == [7]),
    "max_rows": ([*TEXT, "--max_rows", "99"], lambda seen: seen.limit == 99),
    "jsonl": (["--jsonl"], lambda seen: seen.out.startswith("{")),
}

EVALUATE: dict[str, Case] = {
    **loading(),
    "checkpoint": (["--checkpoint", "other.ckpt"], lambda seen: seen.loaded[0] == "other.ckpt"),
    "tasks": (["--tasks", "piqa"], lambda seen: seen.tasks == ["piqa"]),
    "protocol": (["--protocol", CODE, "--allow_code"], lambda seen: seen.tasks == ["humaneval"]),
    "num_fewshot": (["--num_fewshot", "2"], lambda seen: seen.options["num_fewshot"] == 2),
    "gen_kwargs": (
        ["--gen_kwargs", "temperature=0.6"],
        lambda seen: seen.options.get("gen_kwargs") == "temperature=0.6",
    ),
    "strict": (["--strict"], lambda seen: evaluated(seen).strict),
    "limit": (["--limit", "5"], lambda seen: seen.options["limit"] == 5),
    "num_new_tokens": (["--num_new_tokens", "6"], lambda seen: evaluated(seen).num_new_tokens == 6),
    "sampler": (SAMPLER, lambda seen: evaluated(seen).text.sampler == low_confidence(steps=2)),
    "estimator": (
        ["--estimator.num_samples", "64"],
        lambda seen: evaluated(seen).estimator == ConditionalLikelihood(64),
    ),
    "likelihood": (
        ["--likelihood", "sampler", "--sampler", "comb", "--sampler.stride", "4"],
        lambda seen: evaluated(seen).estimator == UnderSampler(sampler=comb(4)),
    ),
    "changes": (CHANGES, lambda seen: changed(evaluated(seen).text)),
    "rows_per_call": (["--rows_per_call", "3"], lambda seen: evaluated(seen).rows_per_call == 3),
    "check_greedy": (["--check_greedy"], lambda seen: evaluated(seen).check_greedy),
    "score_end": (["--score_end"], lambda seen: evaluated(seen).score_end),
    "bos": (["--bos", "true"], lambda seen: evaluated(seen).text.bos),
    "chat": (["--chat"], lambda seen: seen.options["apply_chat_template"]),
    "template": (
        ["--template", "llada.data.plain_template"],
        lambda seen: evaluated(seen).text.template == plain_template(),
    ),
    "variables": (
        ["--variables", '{"enable_thinking": false}'],
        lambda seen: evaluated(seen).text.variables == {"enable_thinking": False},
    ),
    "allow_code": (["--allow_code"], lambda seen: seen.options["confirm_run_unsafe_code"]),
    "include_path": (["--include_path", "mine"], lambda seen: seen.options["include_path"] == "mine"),
    "output": (["--output", "a.json"], lambda seen: Path("a.json").is_file()),
    "seed": (["--seed", "7"], lambda seen: evaluated(seen).seed == 7),
    "max_tokens": (["--max_tokens", "999"], lambda seen: seen.limit == 999),
}


def written_by(seen: Seen) -> TextModel:
    assert seen.model is not None
    return seen.model


def template(seen: Seen) -> Any:
    return written_by(seen).template


def session(seen: Seen) -> dict[str, Any]:
    assert seen.session is not None
    seen.session.apply_defaults()
    return seen.session.arguments


def scored(seen: Seen, which: str) -> list[str]:
    assert seen.model is None
    ids = seen.likelihood.get(which, [])
    return [WORDS[0].decode(row) for row in ids]


def evaluated(seen: Seen) -> EvaluationModel:
    assert seen.evaluated is not None
    return seen.evaluated


WORDS: list[Tokenizer] = []
"""The tokenizer by which checks read ids; filled by `test_an_option_arrives`."""

# Command -> its function, what it is given in all cases unless the case says otherwise, and the cases.
COMMANDS: dict[str, tuple[Callable[..., None], dict[str, list[str]], dict[str, Case]]] = {
    "sample": (sample.sample, {"checkpoint": ["--checkpoint", "a.ckpt"]}, SAMPLE),
    "generate": (
        generate.generate,
        {
            "checkpoint": ["--checkpoint", "a.ckpt"],
            "input": ["--input", "in.jsonl"],
            "output": ["--output", "out.jsonl"],
            "num_new_tokens": ["--num_new_tokens", "4"],
        },
        GENERATE,
    ),
    "chat": (
        chat.chat,
        {"checkpoint": ["--checkpoint", "a.ckpt"], "num_new_tokens": ["--num_new_tokens", "4"]},
        CHAT,
    ),
    "score": (
        score.score,
        {"checkpoint": ["--checkpoint", "a.ckpt"], "task": ["--prompt", "The", "--answer", " boat"]},
        SCORE,
    ),
    "evaluate": (
        evaluate.evaluate,
        {"checkpoint": ["--checkpoint", "a.ckpt"], "protocol": ["--protocol", PROTOCOL]},
        EVALUATE,
    ),
}
CASES = [(command, option) for command, (_, _, cases) in COMMANDS.items() for option in cases]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_case(command: str) -> None:
    function, _, cases = COMMANDS[command]
    assert set(cases) == set(inspect.signature(function).parameters)


@pytest.mark.parametrize(("command", "option"), CASES)
def test_an_option_arrives(
    seen: Seen, words: Tokenizer, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    WORDS[:] = [words]
    _, always, cases = COMMANDS[command]
    given, check = cases[option]
    replaced = {option, *(["task"] if option in ("prompt", "answer", "pairs", "text") or given[:2] == TEXT[:2] else [])}
    rest = [part for name, parts in always.items() if name not in replaced for part in parts]
    assert main([command, *rest, *given]) == 0, capsys.readouterr().err
    seen.out = capsys.readouterr().out
    assert check(seen)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_check_holds_without_its_option(
    seen: Seen, words: Tokenizer, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    WORDS[:] = [words]
    _, always, cases = COMMANDS[command]
    assert main([command, *[part for parts in always.values() for part in parts]]) == 0, capsys.readouterr().err
    seen.out = capsys.readouterr().out
    assert not [option for option, (_, check) in cases.items() if check(seen)]


def test_a_protocol_gives_way_to_what_is_asked_for(seen: Seen) -> None:
    name = "llada-8b-base/piqa"
    entry = PROTOCOLS[name]
    assert main(["evaluate", "a.ckpt", "--protocol", name]) == 0
    assert (seen.options["num_fewshot"], evaluated(seen).estimator) == (0, entry.estimator(8))
    assert evaluated(seen).text.bos is False
    assert main(["evaluate", "a.ckpt", "--protocol", name, "--num_fewshot", "3", "--estimator.num_samples", "32"]) == 0
    assert (seen.options["num_fewshot"], evaluated(seen).estimator) == (3, ConditionalLikelihood(32))
    assert main(["evaluate", "a.ckpt", "--tasks", "piqa"]) == 0
    assert (seen.options["num_fewshot"], evaluated(seen).estimator) == (None, None)
    assert evaluated(seen).text.bos is None


def test_the_seed_is_that_of_a_text_as_well(seen: Seen) -> None:
    assert main(["score", "a.ckpt", *TEXT, "--seed", "7"]) == 0
    assert seen.bound[5] == 7
