"""A model from files and into files: checkpoints of the Trainer, and layouts of released checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from lightning.pytorch import LightningModule
from torch import nn

from llada.checkpoints.checkpoint import restore
from llada.checkpoints.known import trusting
from llada.checkpoints.released import Pretrained, read_mdlm_checkpoint, read_pretrained, write_pretrained
from llada.process import Process
from llada.samplers import AncestralSampler, ExactCache, llada2


class Loading(LightningModule):
    """What `llada.DiffusionLM` does with files. A subclass is built from a backbone, a process and further parts."""

    backbone: nn.Module
    process: Process
    pretrained_config: dict[str, Any]
    _loaded: bool

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        *,
        strict: bool = True,
        trust: Sequence[str] = (),
        **parts: Any,
    ) -> Self:
        """Rebuild a model from a checkpoint, without repeating its constructor.

        The file tells the class: ``DiffusionLM.load_from_checkpoint`` gives back an `llada.AutoregressiveLM` where one
        was saved, and a subclass of one's own once its module is imported.

        Args:
            checkpoint_path: file that the Trainer wrote.
            map_location: device of the weights; None for the CPU.
            strict: whether every weight must be there.
            trust: installed packages whose classes the file may name, and which are imported for it. Without them, a
                class of one's own must have been imported already.
            parts: constructor arguments that replace the stored ones.

        Returns:
            The model, in evaluation mode, which `Trainer.fit` ends; of the stored class, which is this one or a
            subclass.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file isn't a checkpoint of this class or a subclass, is damaged, or names a class that
                isn't a subclass of the part it would fill.
        """
        with trusting(*trust):
            model = restore(cls, checkpoint_path, map_location, parts).make(strict=strict)
        model._loaded = True
        return model.eval()

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, **options: Any) -> Self:
        """Load a released checkpoint: LLaDA, Dream, MDLM, Duo, GIDD and others, or an autoregressive LLaMA or Qwen.

        Args:
            folder_or_hub_id: a folder with ``config.json`` and safetensors, a name on the Hugging Face hub (extra
                ``hf``), or a ``.ckpt`` file of the training code of MDLM, UDLM or Duo.
            options: ``dtype``, ``device``, ``revision``, ``mask_token_id``, ``layouts`` (to which one of your own can
                be added) and arguments of the backbone, see `llada.checkpoints.released.read_pretrained`; for a file
                those of `llada.checkpoints.released.read_mdlm_checkpoint`.

        Returns:
            The model in evaluation mode. One with blocks is decoded in them, from the start of the row, with exact keys
            of the blocks before and by the rule of `llada.samplers.llada2`.

        Raises:
            FileNotFoundError: if there is nothing to load.
            ValueError: naming what can't be served.
        """
        read = read_mdlm_checkpoint if _is_file_of_trainer(folder_or_hub_id) else read_pretrained
        loaded = read(folder_or_hub_id, **options)
        parts: dict[str, Any] = {}
        blocks = getattr(loaded.backbone, "block_length", None)
        if loaded.process.scatters:  # whose published schedules never end in pure noise
            parts = {"sampler": AncestralSampler(), "approximate_bound": True}
        elif blocks is not None:
            parts = {"sampler": replace(llada2(None, block_length=blocks), cache=ExactCache())}
        model = cls(loaded.backbone, loaded.process, **parts)
        model.pretrained_config, model._loaded = loaded.config, True
        return model.eval()

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Save in the layout of a released checkpoint.

        Args:
            folder: where; an existing one is replaced once the new one is complete.
            options: ``layout`` (a name, or one of your own), ``tokenizer``, ``dtype``, ``max_shard_size``, see
                `llada.checkpoints.released.write_pretrained`.

        Raises:
            ValueError: if the layout has no word for something that this model does.
        """
        write_pretrained(Pretrained(self.backbone, self.process, self.pretrained_config), folder, **options)


def _is_file_of_trainer(place: str | Path) -> bool:
    return Path(place).suffix == ".ckpt" and not Path(place).is_dir()
