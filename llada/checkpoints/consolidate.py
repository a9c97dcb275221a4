"""One file out of a distributed checkpoint, for everything but going on with the training.

    python -m llada.checkpoints.consolidate runs/model.ckpt model.ckpt

``ModelParallelStrategy`` saves a folder to which each rank writes its shards. `fit` resumes from it on any number of
ranks; sampling, scoring and fine-tuning take a file. The folder's index is a pickle, so only folders of one's own
should be opened.
"""

import argparse
import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from llada.checkpoints.checkpoint import PARTS_KEY
from llada.files.atomic import replacing

WEIGHTS, REST = "state_dict", "meta.pt"


def consolidate(folder: str | Path, file: str | Path) -> None:
    """Write the weights and the parts of a distributed checkpoint into one file, without the optimiser's state.

    Args:
        folder: that `lightning.pytorch.strategies.ModelParallelStrategy` wrote.
        file: to be written; `llada.DiffusionLM.load_from_checkpoint` reads it.

    Raises:
        FileNotFoundError: if the folder isn't a distributed checkpoint.
        ValueError: if this library didn't write it.
    """
    folder = Path(folder)
    if not (folder / REST).is_file() or not (folder / ".metadata").is_file():
        raise FileNotFoundError(f"{folder} is not a distributed checkpoint: it has no {REST} and .metadata")
    rest = torch.load(folder / REST, weights_only=True)
    if PARTS_KEY not in rest:
        raise ValueError(f"{folder} is not a checkpoint of this library: it has no {PARTS_KEY!r} entry")
    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    weights = {
        name.removeprefix(f"{WEIGHTS}."): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(f"{WEIGHTS}.") and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        load({WEIGHTS: weights}, checkpoint_id=folder, no_dist=True)
    with replacing(Path(file)) as written:
        torch.save({**rest, WEIGHTS: weights}, written)


def main() -> None:
    """Entry point of ``python -m llada.checkpoints.consolidate``."""
    parser = argparse.ArgumentParser(
        prog="python -m llada.checkpoints.consolidate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", help="distributed checkpoint")
    parser.add_argument("file", help="file to write")
    arguments = parser.parse_args()
    consolidate(arguments.folder, arguments.file)


if __name__ == "__main__":
    main()
