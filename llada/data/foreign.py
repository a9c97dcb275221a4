"""Batches as others write them, as the one that the library reads: `llada.data.batch.TokenBatch`.

    tokens, or input_ids          (B, L) integers
    maskable, or labels           (B, L) bool or 0/1; labels are the tokens themselves, -100 where nothing is learned
    attention_mask                (B, L) bool or 0/1; what it hides is never maskable
    segment_ids                   (B, L) integers
    a tensor, or [tensor]         the tokens alone, such as a `TensorDataset` gives

Further columns stay as they are, for objectives that ask for them.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from llada.data.batch import TokenBatch

IGNORED = -100
"""The label of a token from which nothing is learned, as transformers and PyTorch have it."""

WANTED = (
    "a batch must be a dictionary with tokens (or input_ids), (B, L) integers, and perhaps maskable (or labels), "
    "attention_mask and segment_ids of that shape; or the tokens alone"
)


def as_token_batch(batch: Any, vocab_size: int | None = None) -> TokenBatch:
    """Read a batch.

    Args:
        batch: a mapping of columns, such as a dictionary or transformers' `BatchEncoding`; a named tuple of them; the
            tokens alone; or a list or tuple that holds nothing else.
        vocab_size: tokens that the model knows; None where nobody asks.

    Raises:
        ValueError: saying what was got and what is needed, if it is something else or its columns don't fit.
    """
    columns = _columns(batch)
    tokens = _tokens(columns)
    if vocab_size is not None and tokens.device.type == "cpu" and int(tokens.max()) >= vocab_size:
        raise ValueError(
            f"the batch holds the token {int(tokens.max())}, but the model knows {vocab_size}, 0 to {vocab_size - 1}; "
            "give the backbone the tokenizer's vocab_size, or the data the model's own tokenizer"
        )
    labels = _of_shape(columns.pop("labels", None), "labels", tokens)
    given = {name: _mask(columns.get(name), name, tokens) for name in ("maskable", "attention_mask")}
    maskable, real = given["maskable"], given["attention_mask"]
    if labels is not None:
        learned = _learned(labels, tokens)
        maskable = learned if maskable is None else maskable & learned
    if real is not None:
        maskable = real if maskable is None else maskable & real
        columns["attention_mask"] = real
    columns["tokens"] = tokens
    columns["maskable"] = torch.ones_like(tokens, dtype=torch.bool) if maskable is None else maskable
    segments = _of_shape(columns.get("segment_ids"), "segment_ids", tokens)
    if segments is not None:
        columns["segment_ids"] = segments
    return cast(TokenBatch, {name: value for name, value in columns.items() if value is not None})


def _columns(batch: Any) -> dict[str, Any]:
    """The columns by name, in a new dictionary."""
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        batch = batch._asdict()
    if isinstance(batch, list | tuple) and len(batch) == 1:
        (batch,) = batch
    if isinstance(batch, Tensor):
        return {"tokens": batch}
    if not isinstance(batch, Mapping):
        number = f" of {len(batch)}, which don't say which is which" if isinstance(batch, list | tuple) else ""
        raise ValueError(f"{WANTED}; got a {type(batch).__name__}{number}")
    return dict(batch)


def _tokens(columns: dict[str, Any]) -> Tensor:
    """The tokens, (B, L) int64; the column ``input_ids`` is taken out."""
    if "tokens" not in columns and "input_ids" not in columns:
        raise ValueError(f"{WANTED}; got the columns {', '.join(map(str, columns)) or '(none)'}")
    if "tokens" in columns and "input_ids" in columns:
        raise ValueError(f"{WANTED}; got both tokens and input_ids, and can't know which of them to train on")
    name = "tokens" if "tokens" in columns else "input_ids"
    tokens = columns.pop(name)
    if not isinstance(tokens, Tensor):
        raise ValueError(
            f"{WANTED}; got {name} as a {type(tokens).__name__}; let the collator stack tensors, such as with "
            'set_format("torch") of a Hugging Face data set'
        )
    if tokens.is_nested or tokens.layout != torch.strided:
        kind = "nested" if tokens.is_nested else str(tokens.layout)
        raise ValueError(f"{WANTED}; got {name} as a tensor that isn't dense ({kind}); pad or unfold it")
    if tokens.ndim != 2 or not tokens.numel() or not _whole_numbers(tokens):
        raise ValueError(f"{WANTED}; got {name} of shape {tuple(tokens.shape)} and {tokens.dtype}")
    if tokens.device.type == "cpu" and int(tokens.min()) < 0:  # elsewhere looking would mean waiting
        raise ValueError(f"{name} holds {int(tokens.min())}, which is no token id; give padding an id of its own")
    return tokens.long()


def _mask(value: Any, name: str, tokens: Tensor) -> Tensor | None:
    """A column of truth values, (B, L) bool."""
    value = _of_shape(value, name, tokens)
    if value is None or value.dtype == torch.bool:
        return value
    if value.device.type == "cpu" and not bool(((value == 0) | (value == 1)).all()):
        hint = "; segments of packed rows belong into segment_ids" if name == "attention_mask" else ""
        raise ValueError(f"{name} must be bool, or 0 and 1; it also holds {int(value[(value != 0)].max())}{hint}")
    return value != 0


def _of_shape(value: Any, name: str, tokens: Tensor) -> Tensor | None:
    """A column of whole numbers or truth values, (B, L)."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor of the tokens' shape {tuple(tokens.shape)}; got {type(value)}")
    if value.shape != tokens.shape or not (_whole_numbers(value) or value.dtype == torch.bool):
        raise ValueError(
            f"{name} must be bool or integers of the tokens' shape {tuple(tokens.shape)}; got {tuple(value.shape)} "
            f"{value.dtype}"
        )
    return value if value.dtype == torch.bool else value.long()


def _learned(labels: Tensor, tokens: Tensor) -> Tensor:
    """Which tokens labels ask to be learned, (B, L) bool."""
    learned = labels != IGNORED
    if bool((learned & (labels != tokens)).any()):
        raise ValueError(
            "labels differ from the tokens: the collator has masked or shifted them, which is this library's business. "
            "Give labels equal to input_ids, with -100 where nothing is to be learned (mlm=False)"
        )
    return learned


def _whole_numbers(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
