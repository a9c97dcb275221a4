"""Kinds of words on the command line, told apart by the annotation of a command's argument.

They are text to the command itself. `llada.cli.preflight` looks at them before anything slow is imported.
"""

import os
from pathlib import Path

from llada.files.places import is_released

Checkpoint = str
"""A file of the Trainer, a released checkpoint's folder, or its name on the Hugging Face hub."""
InputFile = str
"""A file that must be there."""
InputFolder = str
"""A folder or file that must be there."""
Word = str
"""A name that may stand in front, without the option's."""
NewPlace = str
"""A file or folder that mustn't be there yet, unless it is an empty folder."""
OutputFile = str
"""A file that is written."""
OutputFolder = str
"""A folder that is written to."""


def check_kind(kind: str, value: str) -> None:
    """Look at a place that is named on the command line.

    Args:
        kind: the annotation, such as "InputFile" or "Checkpoint | None".
        value: the word.

    Raises:
        FileNotFoundError: if what must be there isn't.
        ValueError: if something is there that mustn't be.
    """
    match kind.removesuffix(" | None"):
        case "Checkpoint" if not is_released(value) and not Path(value).exists():
            raise FileNotFoundError(f"there is no checkpoint {value}")
        case "InputFile" if not Path(value).exists():
            raise FileNotFoundError(f"there is no file {value}")
        case "InputFolder" if not Path(value).exists():
            raise FileNotFoundError(f"there is no folder or file {value}")
        case "NewPlace" if os.path.lexists(value) and not (os.path.isdir(value) and not os.listdir(value)):
            raise ValueError(f"{value} is there already; name a folder or file that isn't")
