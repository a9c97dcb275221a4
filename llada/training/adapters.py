"""Low-rank additions of a training run, from and to adapters in PEFT's format."""

from torch import Tensor

from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.released import Pretrained, write_adapter
from llada.checkpoints.released.adapter import Adapter
from llada.checkpoints.released.layout_for import layout_for
from llada.checkpoints.released.low_rank import Addition
from llada.module import DiffusionLM


def additions_of(adapter: Adapter) -> dict[str, Addition]:
    """The additions by the paths of their matrices.

    Raises:
        ValueError: if the adapter does more than add to matrices of the layers.
    """
    if adapter.replacements or any(addition.transposed for addition in adapter.additions.values()):
        raise ValueError(
            "the adapter replaces whole matrices or changes the embedding, which can't be gone on with; merge it: "
            "llada convert BASE OUT --adapter FOLDER"
        )
    return {name.removesuffix(".weight"): addition for name, addition in adapter.additions.items()}


def write_run_adapter(checkpoint: str, folder: str, layout: str | None = None) -> None:
    """Write the additions of a training run in PEFT's format.

    Args:
        checkpoint: file that the Trainer wrote with `LoRA` among its callbacks.
        folder: to be made.
        layout: family whose names the adapter gets, such as "llada"; None for the one that the model's parts call for,
            or our own names where none can say it.

    Raises:
        ValueError: if the file has no additions, or ``layout`` can't say what the model is.
    """
    stored = read_checkpoint(checkpoint)
    state = stored.get("callbacks", {}).get("LoRA")
    if not state or "alphas" not in state:
        raise ValueError(
            f"{checkpoint} holds no low-rank additions with their scales; it must be a file of a run with the callback "
            "LoRA, of this version"
        )
    model = DiffusionLM.load_from_checkpoint(checkpoint)
    pretrained = Pretrained(model.backbone, model.process, {})
    try:
        chosen = layout_for(pretrained, layout)[0]
    except ValueError:
        if layout is not None:
            raise
        chosen = None
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state["additions"].items():
        path, _, rest = name.partition(".lora_")
        pairs.setdefault(path, {})[rest[0]] = tensor
    write_adapter(
        folder,
        model.backbone,
        chosen,
        {path: (sides["A"], sides["B"]) for path, sides in pairs.items()},
        state["alphas"],
        dropout=state["dropout"],
        rank_stabilised=state["rank_stabilised"],
    )
