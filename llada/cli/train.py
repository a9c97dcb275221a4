"""``llada fit | validate | test | predict``: LightningCLI over DiffusionLM and the data modules.

Every part is chosen by ``class_path`` in YAML or on the command line; the vocabulary and the mask token go from the
data to the model by themselves.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from typing_extensions import override

# Importing the packages makes their classes known by short names: `--model.objective NELBO`.
import llada.backbones
import llada.data
import llada.noise
import llada.objectives
import llada.process
import llada.samplers
import llada.training.callbacks
import llada.training.lr_schedulers
from llada.checkpoints.changes import ChangedParts, Choice
from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.known import trust
from llada.checkpoints.misfit import in_short
from llada.checkpoints.newest import newest_readable
from llada.checkpoints.released.options import LoadOptions
from llada.checkpoints.storage import AtomicCheckpointIO, local_path
from llada.cli.boundary import Misunderstood
from llada.cli.earlier_run import check_free
from llada.cli.mistakes import OneSentence
from llada.cli.quiet import ours, quiet
from llada.cli.run_folder import move_run
from llada.cli.shared import GROUPS, LOADING, REPEATABLE
from llada.cli.train_front import HELP_ALL
from llada.cli.train_options import OPTIONS
from llada.cli.values import check_training
from llada.files.places import is_released
from llada.module import DiffusionLM
from llada.training.callbacks import Compile, ProgressLines, SaveAtEnd
from llada.training.callbacks.interrupts import Interrupted
from llada.training.callbacks.run_file import run_folders
from llada.training.initial_weights import InitialWeights

for _name in llada.data.__all__:  # which loads its names on first use
    getattr(llada.data, _name)


class TrainParser(OneSentence, LightningArgumentParser):
    """Lightning's parser, whose refusals are one sentence."""


class SaveTrainingConfig(SaveConfigCallback):
    """Write the configuration beside the logs of a training run; other commands and runs without logs leave no file."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)


class LLaDACLI(LightningCLI):
    """LightningCLI with the links between data and model, weights to begin with, and filled canvases on the screen.

    Args:
        command: the one subcommand to build a parser for, which takes a quarter of the time that all four take.
        **options: of ``LightningCLI``.
    """

    def __init__(self, command: str, **options: Any) -> None:
        # A static method of LightningCLI, which reads it from the instance.
        self.subcommands = lambda: {command: LightningCLI.subcommands()[command]}  # type: ignore[method-assign]
        super().__init__(DiffusionLM, LightningDataModule, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The data knows the vocabulary and the mask token before it is prepared."""
        parser.link_arguments("data.vocab_size", "model.backbone.init_args.vocab_size", apply_on="instantiate")
        parser.link_arguments("data.mask_token_id", "model.process.init_args.mask_token_id", apply_on="instantiate")
        parser.link_arguments("data.vocab_size", "model.process.init_args.num_tokens", apply_on="instantiate")
        parser.set_defaults({"model.process": {"class_path": "llada.process.MaskingProcess"}})
        kinds: dict[str, Any] = {
            "changed_parts": {"type": Choice, "default": "refuse"},
            "undescribed": {"type": Literal["refuse", "weights"], "default": "refuse"},
            "trust": {"type": str, "action": "append"},
            "share_folder": {"type": bool, "default": False},
            "compile": {"type": Literal["blocks"] | None, "default": None},
            "overwrite": {"action": "store_true"},
        }
        kinds |= {name: {"type": str, "action": "append"} for name in REPEATABLE if name in GROUPS[LOADING]}
        for name, text in OPTIONS.items():
            parser.add_argument(f"--{name}", **kinds.get(name, {"type": str | None, "default": None}), help=text)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and look at values that the parser lets through."""
        super().parse_arguments(parser, args)
        check_training(self.config[self.config["subcommand"]])

    def before_instantiate_classes(self) -> None:
        """Build a backbone without storage that is going to be split or quantised: no process ever holds the whole."""
        trust(*(self._get(self.config, "trust") or ()))
        for name in ("model.backbone", "data"):
            check_named(name, self._get(self.config, name))
        run_folder = self._get(self.config, "run_folder")
        if run_folder is not None:
            move_run(self._get(self.config, "trainer"), run_folder)
        given = [name for name in GROUPS[LOADING] if self._get(self.config, name)]
        if given and self._get(self.config, "init_from") is None:
            raise ValueError(f"--{given[0]} tells how the weights of --init_from are read; give that too")
        strategy = self._get(self.config, "trainer.strategy")
        if str(strategy).endswith("_spawn"):
            raise Misunderstood(f"--trainer.strategy={strategy} can't hand a command to its processes; give ddp")
        fills = self._get(self.config, "quantise") is not None and is_released(self._get(self.config, "init_from"))
        if fills or issubclass(_class_of(strategy), ModelParallelStrategy):
            self.parser.add_instantiator(without_storage, nn.Module, subclasses=True)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """A Trainer whose checkpoints are replaced as a whole, and that saves whatever ends it."""
        given = self._get(self.config_init, "trainer.callbacks") or []
        chosen = [*given] if isinstance(given, list) else [given]  # the Trainer goes on with the list itself
        trainer = super().instantiate_trainer(**options)
        trainer.callbacks[:] = [c if c in chosen else ours(c) for c in trainer.callbacks]  # type: ignore[attr-defined]
        if self._get(self.config_init, "compile") == "blocks":
            trainer.callbacks.insert(0, Compile())  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        trainer.callbacks.append(ChangedParts(self._get(self.config_init, "changed_parts")))  # type: ignore[attr-defined]
        if trainer.max_epochs == -1 and trainer.max_steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            # Lightning compares the interval with the batches of an epoch, but counts it over all of them.
            warnings.filterwarnings("ignore", message="The number of training batches .* than the logging interval")
        bar = trainer.progress_bar_callback
        if bar is not None and not sys.stdout.isatty():  # where a bar would leave its last picture, and nothing before
            others = [c for c in trainer.callbacks if c is not bar or c in chosen]  # type: ignore[attr-defined]
            trainer.callbacks[:] = [*others, ProgressLines()]  # type: ignore[attr-defined]
        if self._get(self.config_init, "trainer.enable_checkpointing") is not False:
            share_folder = bool(self._get(self.config_init, "share_folder"))
            trainer.callbacks.append(SaveAtEnd(share_folder=share_folder))  # type: ignore[attr-defined]
        return trainer

    def after_instantiate_classes(self) -> None:
        """Put the initial weights in front of the other callbacks, which may average or freeze them."""
        self.model.undescribed = self._get(self.config_init, "undescribed")
        check_lengths(self.model.backbone, self.datamodule)
        initial = self._get(self.config_init, "init_from")
        if initial is not None:
            given = {name: self._get(self.config_init, name) for name in GROUPS[LOADING]}
            self.trainer.callbacks.insert(0, InitialWeights(initial, LoadOptions.of(**given)))  # type: ignore[attr-defined]

    def fit(self, **arguments: Any) -> None:
        """Train, and say at the end where the model is, whatever has ended the training."""
        interrupted = False
        try:
            self.trainer.fit(**arguments)
        except Interrupted:
            interrupted = True
            raise
        finally:
            if self.trainer.is_global_zero:
                self._report(interrupted)

    def _report(self, interrupted: bool) -> None:
        saving = next((c for c in self.trainer.callbacks if isinstance(c, SaveAtEnd)), None)  # type: ignore[attr-defined]
        if saving is None:
            print("nothing was saved: trainer.enable_checkpointing is false", flush=True)
        elif saving.ending is None:
            if sys.exc_info()[0] is None:
                print("nothing was saved: no step was trained", flush=True)
        else:
            print(saving.ending, flush=True)
            if interrupted and saving.ending.path is not None:
                print("to go on, run the same command with --ckpt_path last", flush=True)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Find out which checkpoint ``last`` is, and let none be unpickled."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if arguments.get("weights_only") is False:
            raise ValueError("checkpoints are never unpickled, which could run code; leave --weights_only out")
        arguments["weights_only"] = True
        if arguments.get("ckpt_path") == "last":
            folders = run_folders(self.trainer)
            arguments["ckpt_path"] = newest_readable(folders)
            if arguments["ckpt_path"] is None:
                nothing = f"there is no checkpoint in {', '.join(map(str, folders))}"
                if subcommand != "fit":
                    raise FileNotFoundError(f"{nothing}; name one by --ckpt_path")
                warnings.warn(f"{nothing}, so this run begins anew", stacklevel=2)
        anew = subcommand == "fit" and arguments.get("ckpt_path") is None
        if anew and not self._get(self.config_init, "overwrite") and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_free(self.trainer)
        return arguments

    def after_predict(self) -> None:
        """Print what was written, one JSON object per row."""
        tokenizer = getattr(self.datamodule, "tokenizer", None)
        for sample in self.trainer.predict_loop.predictions:
            parts = sample.tokens, sample.calls, sample.generated
            for ids, calls, generated in zip(*(part.tolist() for part in parts), strict=True):
                written = {"tokens": ids} if tokenizer is None else {"text": tokenizer.decode(ids)}
                entry = {**written, "generated": generated, "calls": calls}
                print(json.dumps(entry, ensure_ascii=sys.stdout.isatty()))  # no orders to a terminal

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint before anything is built; Lightning would look for hyperparameters in it."""
        path = self.config[self.config["subcommand"]].get("ckpt_path")
        if path is not None and not str(path).strip():
            raise Misunderstood("--ckpt_path is empty; name a checkpoint, say last, or leave it out")
        place = None if path is None else local_path(path)
        if place is not None and place.is_file():
            read_checkpoint(place)


def check_lengths(backbone: nn.Module, data: Any) -> None:
    """Refuse rows that are longer than what a backbone takes.

    Raises:
        ValueError: naming both lengths.
    """
    longest, rows = getattr(backbone, "max_length", None), getattr(data, "max_length", None)
    if isinstance(longest, int) and isinstance(rows, int) and rows > longest:
        raise ValueError(
            f"the data makes rows of up to {rows} tokens, but the backbone takes {longest}; set "
            f"--model.backbone.init_args.max_length={rows}, or --data.init_args.max_length={longest}"
        )


def _class_of(config: Any) -> type:
    """The class that a configuration names by its ``class_path``; the configuration's own where it names none."""
    module, _, name = getattr(config, "class_path", "").rpartition(".")
    return getattr(import_module(module), name) if module else type(config)


def check_named(name: str, part: Any) -> None:
    """Refuse a part of which a configuration says nothing, as ``{}`` does: it would be an object of the base class.

    Args:
        name: of the part.
        part: what the configuration says, with its ``class_path``.

    Raises:
        Misunderstood: if it names the base class.
    """
    if _class_of(part) in (nn.Module, LightningDataModule):
        raise Misunderstood(f"--{name} names no class; give it a class_path, as the configurations of llada config do")


def without_storage(class_type: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """Build a module on the meta device, if it can be given its weights afterwards."""
    kwargs.pop("applied_instantiation_links", None)
    with torch.device("meta") if hasattr(class_type, "reset_parameters") else nullcontext():
        return class_type(*args, **kwargs)


def run(command: str, arguments: ArgsType, kind: type[LLaDACLI] = LLaDACLI) -> LLaDACLI:
    """Parse and run a subcommand.

    Args:
        command: such as "fit".
        arguments: such as ["fit", "--config", "model.yaml"]; None: those of the process.
        kind: what is done with the parts when they are built.
    """
    exact: dict[str, Any] = {"allow_abbrev": False}
    return kind(
        command,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,  # DiffusionLM takes its optimiser as an argument
        save_config_callback=SaveTrainingConfig,
        save_config_kwargs={"overwrite": True},  # a run that is resumed or repeated keeps its folder
        parser_class=TrainParser,
        parser_kwargs={"prog": "llada", **exact, command: dict(exact)},
        args=arguments,
    )


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    given = [command, *("--help" if word == HELP_ALL else word for word in arguments)]
    try:
        with quiet():  # Lightning warns where it is given what it would read itself
            run(command, None if sys.argv[1:] == given else given)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt) and not isinstance(end, Interrupted):
            raise KeyboardInterrupt from None  # Lightning has caught it, and would end with status 1
        raise
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ValueError(in_short(error)) from error
