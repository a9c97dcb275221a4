"""What the page asks for: a run step by step, the alternatives at a place, the tokens of a text, and a run's price.

A canvas is a list of token ids, with null where a token is to be written, so a run can begin anywhere: behind a prompt,
around fixed text, or where a person has taken tokens back.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from llada.data.chat.conversations import read_messages
from llada.denoiser import as_denoiser
from llada.inference import evaluating
from llada.samplers import Sampler
from llada.serving.at_work import Job, aligned
from llada.serving.body import Body
from llada.serving.decoder import decoder
from llada.serving.limits import Limits
from llada.text import TextModel
from llada.text.gaps import GAP
from llada.viewers import Recording

NUM_ALTERNATIVES = 5


@dataclass(frozen=True)
class Run:
    """A canvas to be written before someone's eyes.

    Attributes:
        ids: token ids; any at open places.
        open: places to be written.
        sampler: how.
        seed: of the row.
    """

    ids: list[int]
    open: list[bool]
    sampler: Sampler
    seed: int


def read_run(content: dict[str, Any], text: TextModel, limits: Limits) -> Run:
    """Understand a request of the page.

    Args:
        content: ``canvas``, a list of token ids and nulls; or ``messages``; or ``text`` with gaps such as ``[MASK:8]``;
            or ``text`` to be continued. ``length`` places follow messages and texts without gaps. How it is decoded is
            said as in `llada.serving.decoder`.
        text: model and tokenizer.
        limits: what may be asked for.

    Raises:
        ValueError: if it can't be carried out.
    """
    body = Body(content)
    length = body.integer("length", min(limits.num_new_tokens, 64), 1, limits.max_new_tokens)
    canvas = _canvas(body, text, length, limits.max_new_tokens)
    waits = [token is None for token in canvas]
    if not any(waits):
        raise ValueError("nothing is open; take a token back, or ask for a longer text")
    longest = min(text.max_length or limits.max_new_tokens * 4, limits.max_new_tokens * 4)
    if len(canvas) > longest:
        raise ValueError(f"the canvas has {len(canvas)} places, more than the {longest} that are taken; shorten it")
    run = Run(
        [token or 0 for token in canvas],
        waits,
        decoder(body, text, limits),
        body.integer("seed", 0, -(2**62), 2**62),
    )
    body.end()
    return run


def _canvas(body: Body, text: TextModel, length: int, most: int) -> list[int | None]:
    canvas, messages, written = body.take("canvas"), body.take("messages"), body.text("text", "")
    if canvas is not None:
        return read_canvas(canvas, text)
    if messages is not None:
        ids = text.encode_messages(read_messages({"messages": messages}, "messages", "the request", ()))
        return [*ids, *[None] * length]
    if "[MASK" in written:
        mask = text.model.process.mask_token_id
        if mask is None:
            raise ValueError("the model's noise has no mask token, so gaps can't be written as [MASK:8]")
        if (places := sum(int(gap[1] or 1) for gap in GAP.finditer(written))) > most:
            raise ValueError(f"the gaps have {places} places, more than the {most} that may be written; ask for fewer")
        return [None if token == mask else token for token in text.encode_gaps(written)]
    return [*text.context(text.encode(written)), *[None] * length]


def read_canvas(canvas: Any, text: TextModel) -> list[int | None]:
    """A list of token ids and nulls.

    Raises:
        ValueError: if it is something else.
    """
    size = text.tokenizer.vocab_size
    if not isinstance(canvas, list) or not canvas:
        raise ValueError("canvas must be a list of token ids and nulls that isn't empty")
    for token in canvas:
        if token is not None and (type(token) is not int or not 0 <= token < size):
            raise ValueError(f"canvas must hold token ids from 0 to {size - 1}, and null; got {token!r:.80}")
    return canvas


def recording(run: Run, text: TextModel) -> Recording:
    """What the page is sent of a run."""
    ids = [None if wait else token for token, wait in zip(run.ids, run.open, strict=True)]
    return Recording(ids, [not wait for wait in run.open], lambda token: spell(token, text))


def spell(token: int, text: TextModel) -> str:
    """The text of a token; the name of a special one."""
    names = text.tokenizer.special_tokens
    return text.tokenizer.decode([token]) or next((name for name, number in names.items() if number == token), "")


def price(run: Run, ids: list[int], text: TextModel) -> dict[str, Any]:
    """The negative log-likelihood of a finished canvas under the run's own sampler, in nats.

    Args:
        run: the canvas before.
        ids: the finished one.
        text: model and tokenizer.

    Returns:
        ``nats``, and whether they are ``exact``; or ``gap``, the reason why there are none.
    """
    gap = run.sampler.likelihood_gap
    if gap is not None:
        return {"nats": None, "gap": gap}
    made = aligned([Job(ids, run.open, run.sampler, run.seed, lambda _: None)], text)
    tokens = torch.tensor([ids], device=text.model.device)
    with evaluating(text.model):
        told = run.sampler.likelihood(
            text.model.backbone, tokens, text.model.process, given=made.given, seed=text.seeds([run.seed])
        )
    nats = -float(told.log_likelihood[0])
    return {"nats": nats if math.isfinite(nats) else None, "exact": told.is_exact}


def alternatives(canvas: list[int | None], place: int, text: TextModel) -> list[list[Any]]:
    """The likeliest tokens at a place, given all others that are written: [token, text, probability] each.

    Args:
        canvas: token ids, None where nothing is written.
        place: which one is asked for.
        text: model and tokenizer.

    Raises:
        ValueError: if the model can't be asked: it has no mask, wants the time of the noise, or reads left to right.
    """
    process = text.model.process
    mask = process.mask_token_id
    if mask is None or process.time_conditioned or text.model.needs_prompt:
        raise ValueError("only a masked diffusion model without a time can be asked what else could stand at a place")
    tokens = torch.tensor([[mask if token is None or at == place else token for at, token in enumerate(canvas)]])
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, place] = True
    with evaluating(text.model), torch.no_grad():
        logits = as_denoiser(text.model.backbone).logits(
            tokens.to(text.model.device), where=where.to(text.model.device)
        )[0]
    logits = logits.float()
    logits[mask] = -torch.inf
    top = logits.softmax(-1).topk(min(NUM_ALTERNATIVES, logits.numel() - 1))
    return [[i, spell(i, text), round(p, 4)] for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
