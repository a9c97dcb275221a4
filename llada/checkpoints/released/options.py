"""How a checkpoint is to be read, beyond what its own files say: the options that all commands share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LoadOptions:
    """What the caller adds to a checkpoint's own word; see `llada.checkpoints.released.read_pretrained`.

    Args:
        mask: id or name of the mask token.
        revision: branch, tag or commit of a name on the hub.
        ignore_fields: fields of ``config.json`` to go on without.
        backbone: arguments of the backbone that replace those of the configuration.
        adapter: folder or hub name of a PEFT adapter that is added to the weights.
    """

    mask: int | str | None = None
    revision: str | None = None
    ignore_fields: tuple[str, ...] = ()
    backbone: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None

    def released(self) -> dict[str, Any]:
        """Arguments of `llada.checkpoints.released.read_pretrained`."""
        return {
            **self.backbone,
            "mask_token_id": self.mask,
            "revision": self.revision,
            "ignore_fields": self.ignore_fields,
            "adapter": self.adapter,
        }

    def check_describes_itself(self, path: str) -> None:
        """Refuse options that are for released folders, where a file says all of itself.

        Args:
            path: of the file.

        Raises:
            ValueError: naming the option.
        """
        given = {"mask": self.mask, "revision": self.revision, "ignore_config_field": self.ignore_fields}
        for name, value in {**given, "backbone": self.backbone}.items():
            if value:
                raise ValueError(f"--{name} is for released folders; {path} says itself what it holds")
