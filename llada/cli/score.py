"""``llada score``: log-likelihoods of answers given prompts, or the bound of a text.

Three ways to call it, each with ``--checkpoint model.ckpt``:

    --prompt "2 + 2 =" --answer " 4" --answer " 5"
    --pairs comparisons.jsonl --jsonl
    --text held_out.txt --max_length 64
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.checkpoints.released.options import LoadOptions
from llada.cli.changes import SamplerChanges
from llada.cli.devices import usable
from llada.cli.files import read_text
from llada.cli.kinds import Checkpoint, InputFile, InputFolder
from llada.cli.limits import MAX_TOKENS as MAX_ROWS
from llada.cli.limits import check_total
from llada.cli.options import run
from llada.cli.score_words import check
from llada.data import JsonLines
from llada.metrics import BoundEstimate, BoundMetric, ConditionalLikelihood, UnderSampler
from llada.module import DiffusionLM
from llada.random import RowRandom
from llada.samplers import Sampler, TextLikelihood
from llada.text import TextModel, load


class Comparison(NamedTuple):
    """A prompt and the answers to it that are to be compared."""

    prompt: str
    answers: list[str]


def score(
    checkpoint: Checkpoint,
    prompt: list[str] | None = None,
    answer: list[str] | None = None,
    pairs: InputFile | None = None,
    text: InputFile | None = None,
    max_length: int | None = None,
    draws: int = 8,
    batch_size: int = 32,
    estimator: ConditionalLikelihood | None = None,
    sampler: Sampler | None = None,
    bos: bool | None = None,
    seed: int = 0,
    tokenizer: InputFolder | None = None,
    device: str = "auto",
    dtype: str | None = None,
    jsonl: bool = False,
    loading: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    changes: SamplerChanges = SamplerChanges(),  # noqa: B008 - frozen
    max_rows: int = MAX_ROWS,
) -> None:
    """Log-likelihoods of answers given prompts, or the bound of a text.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name.
        prompt: what the answers follow: one for all of them, or one for each.
        answer: text whose log-likelihood is wanted; several to one prompt are compared.
        pairs: JSON Lines file of objects with "prompt" and "answer", or "answers" with a list to compare.
        text: text file whose bound is wanted, in nats per token, perplexity and bits per byte.
        max_length: tokens of a row of the text; the one of the training tells most.
        draws: how often the masks of each row of the text are drawn; the mean is reported.
        batch_size: rows of the text per model call; changes memory and speed only.
        estimator: how log-likelihoods are estimated, see `llada.metrics.ConditionalLikelihood`, which is the default;
            autoregressive models are exact: only rows_per_call counts.
        sampler: score under this sampler, such as comb, instead of the bound; exact where no position is drawn.
        bos: whether prompts and the text begin with BOS; default: as the tokenizer has it.
        seed: random seed of the masks.
        tokenizer: folder of the tokenizer; default: the one in the checkpoint.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: number format of the weights, such as bfloat16; default: as they are stored.
        jsonl: print JSON objects, one per line.
        loading: what to add to a released checkpoint's own word.
        changes: arguments of the sampler by their short names.
        max_rows: rows of all draws of the text together, against a slip of the keyboard.
    """
    said = {"prompt": prompt, "answer": answer, "pairs": pairs, "text": text, "max_length": max_length}
    check({name for name, value in said.items() if value not in (None, [])})
    if changes and sampler is None:
        raise ValueError(f"{changes.given} changes a sampler; name the one to score under with --sampler")
    sampler = None if sampler is None else changes(sampler)
    if text is not None:
        assert max_length is not None
        content = read_text(text)
        model = replace(load(checkpoint, tokenizer, usable(device), dtype, loading), bos=bos)
        _print_bound(bound_of(content, model, max_length, draws, batch_size, seed, max_rows, sampler), jsonl)
        return
    comparisons = _read_comparisons(pairs) if pairs is not None else _comparisons(prompt or [], answer or [])
    if sampler is not None:
        if estimator is not None:
            raise ValueError("--sampler scores under a sampler and --estimator estimates the bound; give one of them")
        estimator = UnderSampler(sampler=sampler)
    model = replace(load(checkpoint, tokenizer, usable(device), dtype, loading), bos=bos)
    _print_answers(comparisons, _likelihoods(comparisons, model, estimator, seed), jsonl)


def _comparisons(prompts: list[str], answers: list[str]) -> list[Comparison]:
    if len(prompts) == 1:
        return [Comparison(prompts[0], answers)]
    if len(prompts) != len(answers):
        raise ValueError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give one prompt for all answers, or one for "
            "each (--pairs reads several answers to each of several prompts)"
        )
    return [Comparison(prompt, [answer]) for prompt, answer in zip(prompts, answers, strict=True)]


def _read_comparisons(path: str) -> list[Comparison]:
    comparisons = []
    for where, record in JsonLines(path).records():
        answers = record.get("answers", [record["answer"]] if "answer" in record else None)
        if not isinstance(record.get("prompt"), str):
            raise ValueError(f"{where}: there must be a text 'prompt'")
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{where}: there must be a text 'answer', or 'answers' with a list of texts")
        comparisons.append(Comparison(record["prompt"], answers))
    return comparisons


def _likelihoods(
    comparisons: list[Comparison], model: TextModel, estimator: ConditionalLikelihood | None, seed: int
) -> list[list[dict[str, Any]]]:
    """Log-likelihood, standard error and number of tokens of every answer, in one list per prompt."""
    pairs = [(comparison.prompt, answer) for comparison in comparisons for answer in comparison.answers]
    empty = next((prompt for prompt, answer in pairs if not answer), None)
    if empty is not None:
        raise ValueError(f"an answer to the prompt {empty!r} is empty, so it has no likelihood")
    prompts = [model.context(model.encode(prompt)) for prompt, _ in pairs]
    answers = [model.tokenizer.encode(answer) for _, answer in pairs]
    # One seed for all: answers of one length get the same masks, so that what sets them apart is the answer.
    seeds = torch.full((len(pairs),), seed)
    estimate = model.model.log_likelihood(prompts, answers, seed=seeds, estimator=estimator)
    known = iter(
        {"log_likelihood": value, "standard_error": error if math.isfinite(error) else None, "num_tokens": len(ids)}
        for value, error, ids in zip(
            estimate.log_likelihood.tolist(), estimate.standard_error.tolist(), answers, strict=True
        )
    )
    return [[next(known) for _ in comparison.answers] for comparison in comparisons]


def _print_answers(comparisons: list[Comparison], known: list[list[dict[str, Any]]], jsonl: bool) -> None:
    for comparison, numbers in zip(comparisons, known, strict=True):
        best = max(range(len(numbers)), key=lambda i: numbers[i]["log_likelihood"])
        if not jsonl:
            print(f"prompt {comparison.prompt!r}")
        for i, (answer, number) in enumerate(zip(comparison.answers, numbers, strict=True)):
            chosen = i == best and len(numbers) > 1
            if jsonl:
                entry = {"prompt": comparison.prompt, "answer": answer, **number, "best": i == best}
                print(json.dumps(entry, ensure_ascii=sys.stdout.isatty()))
                continue
            value = _plus_minus(number["log_likelihood"], number["standard_error"])
            print(f"  {value} nats, {number['num_tokens']} tokens{' <- best' if chosen else ''}: {answer!r}")


class TextBound(NamedTuple):
    """The bound of a text.

    Attributes:
        estimate: over the rows; its errors are those of a sample of rows, for the text as a part of a larger one.
        draw_se: standard error of ``estimate.nll`` for this very text, from the spread between the draws of the masks.
        num_tokens: number of tokens that were scored, BOS and EOS included; autoregressive models leave out the first
            of each row.
        num_rows: number of rows that the text was cut into.
    """

    estimate: BoundEstimate
    draw_se: float
    num_tokens: int
    num_rows: int


@torch.no_grad()
def bound_of(
    text: str,
    model: TextModel,
    max_length: int,
    draws: int,
    batch_size: int,
    seed: int,
    max_rows: int = MAX_ROWS,
    sampler: Sampler | None = None,
) -> TextBound:
    """The bound of a text as one document, cut into rows; the last row may be shorter.

    Args:
        text: not empty.
        model: with its tokenizer.
        max_length: tokens of a row.
        draws: how often the masks are drawn; each draw is stratified over all rows.
        batch_size: rows per model call.
        seed: random seed of the masks.
        max_rows: rows that all draws together may have.
        sampler: whose likelihood is asked instead; exact ones need one draw.

    Raises:
        ValueError: if a size isn't positive, there are too many rows, or a row is longer than the model takes.
    """
    for name, value in (("max_length", max_length), ("draws", draws), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; got {value}")
    ids = model.encode(text)
    ids += [] if model.tokenizer.eos_token_id is None else [model.tokenizer.eos_token_id]
    rows = torch.tensor(ids).split(max_length)
    check_total(f"{draws} draws of {len(rows)} rows", draws * len(rows), "max_rows", max_rows)
    # Equal lengths in a batch: the shorter last row goes alone.
    full = [index for index, row in enumerate(rows) if len(row) == max_length]
    batches = [*torch.tensor(full, dtype=torch.int64).split(batch_size)] if full else []
    batches += [torch.tensor([len(full)])] if len(full) < len(rows) else []
    nelbo, sizes = torch.zeros(draws, len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.int64)
    exact = False
    for draw in range(draws):
        if exact:
            nelbo[draw] = nelbo[0]
            continue
        for batch in batches:
            tokens = torch.stack([rows[index] for index in batch.tolist()]).to(model.model.device)
            if sampler is None:
                random = RowRandom.for_step(seed, draw, batch.to(model.model.device), len(rows))
                output = model.model.bound(model.model.backbone, model.model.process, tokens, random=random)
                nelbo[draw, batch], sizes[batch] = output.nelbo.cpu(), output.num_tokens.cpu()
            else:
                scored = _under(sampler, model.model, tokens, seed + draw * len(rows) + batch)
                nelbo[draw, batch], sizes[batch] = -scored.log_likelihood.cpu(), scored.generated.cpu()
                exact = scored.is_exact
    metric = BoundMetric(bytes_per_token=len(text.encode()) / len(ids))
    metric.update(nelbo.mean(0), sizes)
    per_draw = nelbo.sum(1) / sizes.sum()
    draw_se = float(per_draw.std() / math.sqrt(draws)) if draws > 1 else math.nan
    return TextBound(metric.compute(), draw_se, int(sizes.sum()), len(rows))


def _under(sampler: Sampler, model: DiffusionLM, tokens: Tensor, seed: Tensor) -> TextLikelihood:
    """Rows under a sampler; nothing stands before the first token of a row that is read from left to right."""
    given = torch.zeros_like(tokens, dtype=torch.bool)
    given[:, 0] = model.bound.left_to_right
    return sampler.likelihood(model.backbone, tokens, model.process, given=given, seed=seed.to(model.device))


def _print_bound(bound: TextBound, jsonl: bool) -> None:
    numbers = {name: float(value) for name, value in bound.estimate._asdict().items()} | {"draw_se": bound.draw_se}
    if jsonl:
        counts = {"num_tokens": bound.num_tokens, "num_rows": bound.num_rows}
        print(json.dumps({name: x if math.isfinite(x) else None for name, x in numbers.items()} | counts))
        return
    print(f"{bound.num_tokens} tokens in {bound.num_rows} rows; +- is the standard error over rows")
    for name, title in (("nll", "nats per token"), ("perplexity", "perplexity"), ("bits_per_byte", "bits per byte")):
        print(f"  {title:<15} {_plus_minus(numbers[name], numbers[f'{name}_se'])}")
    if math.isfinite(bound.draw_se):
        print(f"  of the {numbers['nll']:.4f} nats, the masks' draws leave +- {bound.draw_se:.4f} uncertain")


def _plus_minus(value: float, error: float | None) -> str:
    if error == 0.0:
        return f"{value:.4f} (exact)"
    return f"{value:.4f}" if error is None or math.isnan(error) else f"{value:.4f} +- {error:.4f}"


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run(score, command, arguments)
