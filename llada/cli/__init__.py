"""The command line: ``llada COMMAND ...``. This file needs neither torch nor Lightning, so that help comes at once."""

import importlib
import os
import sys
from collections.abc import Sequence

from llada.cli.boundary import guarded

COMMANDS = {
    "fit": ("llada.cli.train", "train a model (LightningCLI: YAML, class paths, every Trainer option)"),
    "validate": ("llada.cli.train", "bound on the validation data"),
    "test": ("llada.cli.train", "bound on the test data"),
    "predict": ("llada.cli.train", "fill the masks of prepared canvases"),
    "sample": ("llada.cli.sample", "write text, continue prompts, fill gaps"),
    "chat": ("llada.cli.chat", "talk to a model and watch it write"),
    "generate": ("llada.cli.generate", "answer a file of prompts"),
    "serve": ("llada.cli.serve", "a page where one watches the model write, and an API of OpenAI's kind"),
    "score": ("llada.cli.score", "log-likelihood of answers given prompts"),
    "evaluate": ("llada.cli.evaluate", "tasks of the evaluation harness, and LLaDA's published measurements"),
    "convert": ("llada.cli.convert", "between checkpoint layouts, and to and from the Trainer's files"),
    "tokenizer": ("llada.cli.tokenizer", "train a tokenizer, or look at one"),
}
"""Command -> the module whose ``main(command, arguments)`` runs it, and a line of help."""


def help_text() -> str:
    """What ``llada --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llada COMMAND [OPTIONS]",
            "",
            "Masked diffusion language models: train, sample, score.",
            "",
            "commands:",
            *lines,
            "",
            "`llada COMMAND --help` lists the options of a command.",
            "`llada --debug COMMAND` shows where an error comes from.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: instead of the process's own.

    Returns:
        The exit status, see `llada.cli.boundary`; 2 for a command that doesn't exist.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = arguments[:1] == ["--debug"]
    arguments = arguments[debug:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        from llada import __version__

        print(f"llada {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"llada: there is no command {command!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if os.getcwd() not in sys.path:  # last, so that a user's own parts are found and nothing else is hidden by them
        sys.path.append(os.getcwd())
    if debug or os.environ.get("LLADA_DEBUG"):
        importlib.import_module(COMMANDS[command][0]).main(command, rest)
        return 0
    return guarded(command, lambda: importlib.import_module(COMMANDS[command][0]).main(command, rest))
