"""``--run_folder``: one option for all places to which a run writes."""

from typing import Any


def move_run(trainer: Any, folder: str) -> None:
    """Let loggers and checkpoints go to a folder.

    What the data module keeps stays where it is: its folders have names that follow from their content, so runs share
    them.

    Args:
        trainer: the Trainer's part of a configuration, as jsonargparse has read it; it is changed.
        folder: of the run.
    """
    trainer["default_root_dir"] = folder
    for name, place in (("logger", "save_dir"), ("callbacks", "dirpath")):
        given = trainer.get(name)
        for part in given if isinstance(given, list) else [given]:
            arguments = getattr(part, "init_args", None)
            if arguments is not None and place in arguments:
                arguments[place] = folder
