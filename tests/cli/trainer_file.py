"""A file as the Trainer writes it, without a training run."""

from pathlib import Path

import torch

from llada import BidirectionalTransformer, DiffusionLM, MaskingProcess
from llada.checkpoints.checkpoint import PARTS_KEY, stored_parts
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from tests.tiny_checkpoint import HEADS, HIDDEN, LAYERS, MASK, MAX_LENGTH, VOCAB_SIZE, WIDTH


def tiny_model(seed: int = 0) -> DiffusionLM:
    """A model of the size of `tests.tiny_checkpoint`, with other weights."""
    torch.manual_seed(seed)
    backbone = BidirectionalTransformer(
        VOCAB_SIZE, WIDTH, LAYERS, HEADS, hidden_width=HIDDEN, max_length=MAX_LENGTH, rope_theta=10_000.0
    )
    return DiffusionLM(backbone, MaskingProcess(MASK)).eval()


def write_trainer_file(tokenizer: Path, path: Path, seed: int = 0) -> Path:
    """Write a checkpoint that holds its tokenizer."""
    model = tiny_model(seed)
    parts = stored_parts(model, JsonTokenizer(tokenizer))
    torch.save({"state_dict": model.state_dict(), PARTS_KEY: parts, "epoch": 0, "global_step": 0}, path)
    return path
