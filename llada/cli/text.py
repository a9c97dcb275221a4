"""What the text commands share: load a model with its tokenizer, read prompts, mark gaps, choose a sampler."""

import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from llada.checkpoints.checkpoint import check_tokenizer, read_checkpoint, write_tokenizer
from llada.cli.released import is_released, load_released, torch_dtype
from llada.data import Tokenizer, load_tokenizer
from llada.module import DiffusionLM
from llada.samplers import PRESETS

GAP = re.compile(r"\[MASK(?::(\d+))?\]")
"""How a gap is written in a template: ``[MASK]`` is one token to fill in, ``[MASK:8]`` eight."""


class Loaded(NamedTuple):
    """A model in evaluation mode and the tokenizer that it was trained with."""

    model: DiffusionLM
    tokenizer: Tokenizer


def load(checkpoint: str, tokenizer: str | None, device: str, dtype: str | None = None) -> Loaded:
    """Load a checkpoint and its tokenizer.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name.
        tokenizer: folder or file of a tokenizer; None for the one in the checkpoint.
        device: such as "cpu" or "cuda"; "auto" for a GPU if there is one.
        dtype: of the weights, such as "bfloat16"; None for the stored one.

    Raises:
        ValueError: if the checkpoint holds no tokenizer and none is given, or if they don't belong together.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, words = load_parts(checkpoint, tokenizer, device, dtype)
    if words is None:
        raise ValueError(f"{checkpoint} holds no tokenizer; give the folder of its tokenizer with --tokenizer")
    return Loaded(model, words)


def load_parts(
    checkpoint: str, tokenizer: str | None, device: str, dtype: str | None = None
) -> tuple[DiffusionLM, Tokenizer | None]:
    """`load` for those who can do without a tokenizer."""
    if is_released(checkpoint):
        return load_released(checkpoint, tokenizer, device, dtype)
    stored = read_checkpoint(checkpoint)
    words = None
    if tokenizer is not None:
        words = load_tokenizer(tokenizer)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if write_tokenizer(stored, folder):
                words = load_tokenizer(folder)
    if words is not None:
        check_tokenizer(stored, words, checkpoint)
    return DiffusionLM.load_from_checkpoint(checkpoint).to(device, torch_dtype(dtype)), words


def begin(loaded: Loaded, ids: list[int]) -> list[int]:
    """Documents begin with BOS, if the tokenizer has one."""
    return ids if loaded.tokenizer.bos_token_id is None else [loaded.tokenizer.bos_token_id, *ids]


def read_text(path: str) -> str:
    """A text file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no text, or isn't UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason}; convert it to UTF-8") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without empty ones; exceptions as in `read_text`."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def fill_template(template: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text with gaps.

    Args:
        template: text in which ``[MASK:8]`` stands for eight tokens to fill in, and ``[MASK]`` for one.
        tokenizer: knows the mask token.

    Raises:
        ValueError: if there is no gap.
    """
    ids: list[int] = []
    end = 0
    for gap in GAP.finditer(template):
        ids += [*tokenizer.encode(template[end : gap.start()]), *[tokenizer.mask_token_id] * int(gap[1] or 1)]
        end = gap.end()
    if end == 0:
        raise ValueError(
            f"the template has no gap; write [MASK:8] where 8 tokens are to be filled in. Got {template!r}"
        )
    return [*ids, *tokenizer.encode(template[end:])]


def expand_sampler(arguments: list[str]) -> list[str]:
    """Replace the short name of a preset by its class path, so that ``--sampler low_confidence`` is enough."""
    expanded = list(arguments)
    for index, argument in enumerate(arguments):
        name = argument.removeprefix("--sampler=")
        follows = index > 0 and arguments[index - 1] == "--sampler"
        if (follows or name != argument) and name in PRESETS:
            expanded[index] = argument.removesuffix(name) + f"llada.samplers.{name}"
    return expanded
