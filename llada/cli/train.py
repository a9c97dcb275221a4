"""``llada fit | validate | test | predict``: LightningCLI over DiffusionLM and the data modules.

Every part is chosen by ``class_path`` in YAML or on the command line; the vocabulary and the mask token go from the data
to the model by themselves.
"""

import sys
from collections.abc import Sequence

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

# Importing the packages makes their classes known by short names: `--model.objective MaskedNELBO`.
import llada.backbones
import llada.data
import llada.lr_schedulers
import llada.noise
import llada.objectives
import llada.samplers  # noqa: F401
from llada.module import DiffusionLM


class LLaDACLI(LightningCLI):
    """LightningCLI with the links between data and model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The data knows the vocabulary and the mask token before it is prepared."""
        parser.link_arguments("data.vocab_size", "model.backbone.init_args.vocab_size", apply_on="instantiate")
        parser.link_arguments("data.mask_token_id", "model.process.mask_token_id", apply_on="instantiate")


def run(arguments: ArgsType) -> LLaDACLI:
    """Parse and run a subcommand.

    Args:
        arguments: such as ["fit", "--config", "model.yaml"].
    """
    return LLaDACLI(
        DiffusionLM,
        LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_kwargs={"prog": "llada"},
        args=arguments,
    )


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    given = [command, *arguments]
    run(None if sys.argv[1:] == given else given)  # Lightning warns where it is given what it would read itself
