"""A model and its tokenizer from a checkpoint: a file of the Trainer, a released folder, or a name on the hub."""

import tempfile

import torch

from llada.checkpoints.checkpoint import check_tokenizer, read_checkpoint, write_tokenizer
from llada.checkpoints.quantised import quantise
from llada.checkpoints.released import merge_adapter
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.released.source import find_folder
from llada.data import Tokenizer, load_tokenizer
from llada.files.naming import naming
from llada.files.places import is_released
from llada.module import DiffusionLM
from llada.text.released import load_released, released_stops, torch_dtype
from llada.text.text_model import TextModel


def load(
    checkpoint: str,
    tokenizer: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> TextModel:
    """Load a checkpoint and its tokenizer.

    Args:
        checkpoint: file that the Trainer wrote, or a released checkpoint's folder or hub name.
        tokenizer: folder or file of a tokenizer; None for the one in the checkpoint.
        device: where the model is to run, such as "cpu" or "cuda"; "auto" for a GPU if there is one.
        dtype: number format of the weights, such as "bfloat16"; None for the stored one.
        options: what to add to the checkpoint's own word, such as the mask token or an adapter.

    Returns:
        The model in evaluation mode, with its tokenizer.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the checkpoint holds no tokenizer and none is given, or if they don't belong together.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, words = load_parts(checkpoint, tokenizer, device, dtype, options)
    if words is None:
        raise ValueError(f"{checkpoint} holds no tokenizer; give the folder of its tokenizer with --tokenizer")
    return TextModel(model, words, stops=released_stops(checkpoint, options.revision))


def load_parts(
    checkpoint: str,
    tokenizer: str | None,
    device: str,
    dtype: str | None = None,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> tuple[DiffusionLM, Tokenizer | None]:
    """As `load`, but a checkpoint without tokenizer is no error: then the second value is None."""
    if is_released(checkpoint):
        return load_released(checkpoint, tokenizer, device, dtype, options)
    options.check_describes_itself(checkpoint)
    stored = read_checkpoint(checkpoint)
    words = None
    if tokenizer is not None:
        words = load_tokenizer(tokenizer)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if write_tokenizer(stored, folder):
                with naming(checkpoint, hidden=folder):
                    words = load_tokenizer(folder)
    if words is not None:
        check_tokenizer(stored, words, checkpoint)
    model = DiffusionLM.load_from_checkpoint(checkpoint).to(device, torch_dtype(dtype))
    if options.quantise is not None:
        quantise(model.backbone, options.quantise)
    if options.adapter is not None:
        merge_adapter(model.backbone, find_folder(options.adapter))
    return model, words
