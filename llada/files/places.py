"""What a name on the command line leads to."""

import re
from pathlib import Path

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_released(checkpoint: str) -> bool:
    """Whether a checkpoint is a folder or a hub name, as opposed to a file of the Trainer."""
    path = Path(checkpoint)
    return path.is_dir() or (
        not path.exists() and _HUB_NAME.fullmatch(checkpoint) is not None and path.suffix != ".ckpt"
    )
