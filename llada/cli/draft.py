"""``--draft``: a text that is edited, instead of masks that are filled."""

from dataclasses import replace

import torch

from llada.samplers import Canvas
from llada.text import TextModel


def drafting(text: TextModel, draft: str | None, infill: list[str] | None) -> TextModel:
    """The model with a sampler that edits a draft.

    Args:
        text: model and tokenizer, with the sampler that is to be used.
        draft: the text; None to leave the sampler as it is.
        infill: templates, which hold what stands around gaps and no drafts.

    Raises:
        ValueError: if the sampler edits nothing, or there are templates.
    """
    if draft is None:
        return text
    if infill:
        raise ValueError("--draft stands behind a prompt, and a template of --infill has gaps instead; leave one out")
    try:
        return replace(text, sampler=text.decoding.from_draft())
    except ValueError as error:
        raise ValueError(f"--draft: {error}; at the command line by --sampler") from error


def with_draft(text: TextModel, made: Canvas, draft: str | None, num_new_tokens: int) -> Canvas:
    """The canvas with the draft behind each prompt; masks fill it up.

    Args:
        text: model and tokenizer.
        made: prompts with masks behind them.
        draft: the text; None for masks alone.
        num_new_tokens: masks behind each prompt.

    Raises:
        ValueError: if the draft is longer than that.
    """
    if draft is None:
        return made
    ids = text.tokenizer.encode(draft)
    if len(ids) > num_new_tokens:
        raise ValueError(
            f"the draft has {len(ids)} tokens, and an answer {num_new_tokens}; ask for more with --num_new_tokens"
        )
    tokens, begin = made.tokens.clone(), made.tokens.shape[1] - num_new_tokens
    tokens[:, begin : begin + len(ids)] = torch.tensor(ids, device=tokens.device)
    return made._replace(tokens=tokens)
