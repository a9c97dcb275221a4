"""Released checkpoints by name: a folder with ``config.json``, or a name on the Hugging Face hub."""

import re
from pathlib import Path

import torch

from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.source import find_folder
from llada.data import Tokenizer, load_tokenizer
from llada.data.tokenizers.saved_tokenizer import has_tokenizer
from llada.data.tokenizers.special_tokens import stop_ids
from llada.files.places import is_released
from llada.module import DiffusionLM


def load_released(
    checkpoint: str,
    tokenizer: str | None,
    device: str,
    dtype: str | None,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> tuple[DiffusionLM, Tokenizer | None]:
    """Load a released checkpoint and its tokenizer.

    Args:
        checkpoint: folder, or hub name.
        tokenizer: folder or file of a tokenizer; None for the one beside the weights.
        device: on which the weights are placed, such as "cpu".
        dtype: to which the weights are converted, such as "bfloat16"; None to keep the stored one.
        options: what to add to the checkpoint's own word.

    Returns:
        Model and tokenizer; no tokenizer if none was named and none lies there.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if the files are damaged, or the tokenizer's mask isn't the model's.
    """
    try:
        folder = find_folder(checkpoint, options.revision)
    except OSError as error:  # of the network, too
        raise FileNotFoundError(f"there is no checkpoint {checkpoint} here or on the hub: {error}") from error
    tokenizer_path = folder if tokenizer is None else Path(tokenizer)
    model = DiffusionLM.from_pretrained(folder, dtype=torch_dtype(dtype), device=device, **options.released())
    if tokenizer is None and not has_tokenizer(tokenizer_path):
        return model, None
    return model, tokenizer_of(model, checkpoint, tokenizer_path)


def tokenizer_of(model: DiffusionLM, checkpoint: str, path: str | Path) -> Tokenizer:
    """The tokenizer for a model that knows which token is the mask.

    Args:
        model: that was read.
        checkpoint: from where, for the message.
        path: of the tokenizer.

    Raises:
        ValueError: if the tokenizer is damaged, or its mask isn't the model's.
    """
    try:
        return load_tokenizer(path, mask=model.process.mask_token_id)
    except ValueError as error:
        told = re.sub("for the model(?!')", lambda found: f"{found[0]} of {checkpoint}", str(error))
        raise ValueError(told) from error


def released_stops(checkpoint: str, revision: str | None = None) -> frozenset[int]:
    """Every end of text that the files of a released checkpoint name; none for a file of the Trainer.

    Args:
        checkpoint: folder, hub name or file.
        revision: branch, tag or commit on the hub, that of the weights.

    Raises:
        ValueError: if a file is damaged.
    """
    return stop_ids(find_folder(checkpoint, revision)) if is_released(checkpoint) else frozenset()


def torch_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of a name.

    Raises:
        ValueError: if it isn't one of floating-point numbers.
    """
    if name is None:
        return None
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be float32, bfloat16, float16 or float64; got {name!r}")
    return found
