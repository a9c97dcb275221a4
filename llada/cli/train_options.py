"""The options of ``llada fit`` and its siblings beside those of Trainer, model and data, and their help."""

from llada.cli.shared import GROUPS as SHARED
from llada.cli.shared import LOADING

OPTIONS = {
    "init_from": "checkpoint, released folder or hub name whose weights to begin with; --ckpt_path goes on with a run.",
    **{name: f"with --init_from: {text}" for name, text in SHARED[LOADING].items()},
    "run_folder": "where logs and checkpoints go, in the place of the folders in the configuration.",
    "changed_parts": "where the optimiser or schedule isn't that of --ckpt_path: refuse, or go on with either side's.",
    "undescribed": "parts that a checkpoint can't describe: refuse them, or keep their weights alone.",
    "trust": "installed package whose classes a checkpoint may name, and which is imported for it; nothing else is.",
    "share_folder": "start although another run writes its checkpoints to the same folder.",
    "compile": "blocks: torch.compile for the backbone's blocks, before they are split over ranks.",
    "overwrite": "begin anew although the folder holds the model of another run, which is replaced.",
}
"""Name -> what it is for."""
FLAGS = ("overwrite", "print_config", "help_all")
"""Options without a value, and the parser's own two."""
OF_COMMANDS = {
    "fit": ("ckpt_path", "weights_only"),
    "check": ("ckpt_path", "weights_only"),
    "validate": ("ckpt_path", "verbose", "weights_only"),
    "test": ("ckpt_path", "verbose", "weights_only"),
    "predict": ("return_predictions", "ckpt_path", "weights_only"),
}
"""Command -> the arguments of the Trainer's method that are options."""
GROUPS = ("trainer", "model", "data", "seed_everything")
"""What a configuration begins with."""


def names(command: str) -> tuple[str, ...]:
    """The first words of all options.

    Args:
        command: such as "fit".
    """
    return (*GROUPS, *OPTIONS, *OF_COMMANDS[command])


def help_text(command: str) -> str:
    """What ``llada fit --help`` prints.

    Args:
        command: such as "fit".
    """
    width = max(len(f"--{name}") for name in OPTIONS)
    own = [f"  {f'--{name}':<{width}}  {text}" for name, text in OPTIONS.items()]
    front = "[FILE]" if command == "check" else "--config FILE"
    return f"""usage: llada {command} {front} [OPTIONS]

Parts are chosen by class_path in YAML; every value can be set on the command line by its place in the file:

  llada config                          lists the configurations that come with the library
  llada config demo > mine.yaml         writes one, to be changed
  llada check mine.yaml                 looks at it: parts, memory, tokens, what can't be saved
  llada fit --config mine.yaml --model.backbone.num_layers 6 --trainer.max_steps 4000

  --config FILE        YAML; repeatable, the later one counts
  --model.PART ...     backbone, process, objective, bound, sampler, optimizer, lr_scheduler, seed, ...
  --data ...           a data module, such as TextDataModule, and its arguments
  --trainer.NAME ...   arguments of Lightning's Trainer: max_steps, precision, devices, strategy, callbacks, ...
  --ckpt_path FILE     go on with the run that wrote this checkpoint; last: the newest of the run's folder
  --seed_everything N  default: 0
  --print_config       print the whole configuration, and do nothing

{chr(10).join(own)}

What a class takes: --data.help TextDataModule, --model.backbone.help BidirectionalTransformer, --model.sampler.help
low_confidence; every option of every default: --help_all."""
