"""How a checkpoint is to be read, beyond what its own files say: the options that all commands share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llada.checkpoints.quantised import Quantisation, check_kind
from llada.files.json_object import parse_object


@dataclass(frozen=True)
class LoadOptions:
    """What the caller adds to a checkpoint's own word; see `llada.checkpoints.released.read_pretrained`.

    Args:
        mask: id or name of the mask token.
        revision: branch, tag or commit of a name on the hub.
        ignore_fields: fields of ``config.json`` to go on without.
        backbone: arguments of the backbone that replace those of the configuration.
        adapter: folder or hub name of a PEFT adapter that is added to the weights.
        quantise: bits of the matrices in the blocks, one of `llada.checkpoints.quantised.Quantisation`.
    """

    mask: int | str | None = None
    revision: str | None = None
    ignore_fields: tuple[str, ...] = ()
    backbone: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    quantise: Quantisation | None = None

    def __post_init__(self) -> None:
        if self.quantise is not None:
            check_kind(self.quantise)

    @classmethod
    def of(
        cls,
        mask: int | str | None = None,
        revision: str | None = None,
        adapter: str | None = None,
        ignore_config_field: Iterable[str] | str | None = None,
        backbone: Iterable[str] | str | None = None,
        quantise: Any = None,
    ) -> "LoadOptions":
        """From the options of a command line.

        Raises:
            ValueError: if one for the backbone isn't NAME=VALUE, or there is no such way to quantise.
        """
        given = int(mask) if isinstance(mask, str) and mask.isdecimal() else mask
        assigned = dict(_assignment(text) for text in _several(backbone))
        return cls(given, revision, tuple(_several(ignore_config_field)), assigned, adapter, quantise)

    def released(self) -> dict[str, Any]:
        """Arguments of `llada.checkpoints.released.read_pretrained`."""
        return {
            **self.backbone,
            "mask_token_id": self.mask,
            "revision": self.revision,
            "ignore_fields": self.ignore_fields,
            "adapter": self.adapter,
            "quantise": self.quantise,
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


def _several(given: Iterable[str] | str | None) -> Iterable[str]:
    return [given] if isinstance(given, str) else given or ()


def _assignment(text: str) -> tuple[str, Any]:
    """``shift=false`` -> ("shift", False): a number, true, false or null, and else the text as it stands."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"--backbone takes NAME=VALUE, such as shift=false; got {text!r}")
    try:
        return name, parse_object(f'{{"value": {value}}}', "--backbone")["value"]
    except ValueError:
        return name, value
