"""The families of released checkpoints, and which one a ``config.json`` is of."""

from collections.abc import Sequence

from llada.checkpoints.released.adapted import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3, FAST_DLLM, SDAR
from llada.checkpoints.released.arithmetic import shown
from llada.checkpoints.released.autoregressive import LLAMA, QWEN2, QWEN3
from llada.checkpoints.released.dream import DREAM
from llada.checkpoints.released.fields import Config
from llada.checkpoints.released.gidd import GIDDLayout
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.llada import LLaDALayout
from llada.checkpoints.released.llada2 import LLaDA2Layout
from llada.checkpoints.released.llada_moe import LLaDAMoELayout
from llada.checkpoints.released.mdlm import MDLMLayout
from llada.checkpoints.released.qwen3_moe import QWEN3_MOE, SDAR_MOE
from llada.checkpoints.released.sedd import SEDDLayout
from llada.checkpoints.released.uniform import DUO, UDLM

LAYOUTS: tuple[Layout, ...] = (
    LLaDAMoELayout(),
    LLaDALayout(),
    LLaDA2Layout(),
    DREAM,
    A2D_QWEN2,
    A2D_QWEN3,
    A2D_LLAMA,
    SDAR,
    SDAR_MOE,
    FAST_DLLM,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    LLAMA,
    MDLMLayout(),
    UDLM,
    DUO,
    GIDDLayout(),
    SEDDLayout(),
)
"""In the order in which they are tried."""


def layout_of(config: Config, layouts: Sequence[Layout] = LAYOUTS) -> Layout:
    """The first layout that knows a configuration.

    Raises:
        ValueError: if none does, naming the field that is missing where only that is wrong.
    """
    for layout in layouts:
        if layout.matches(config):
            return layout
    kind = config.get("model_type")
    if kind is None:
        raise ValueError("config.json has no field 'model_type', which names its family")
    near = [layout for layout in layouts if str(kind).lower() in layout.model_types]
    if len(near) == 1:
        return near[0]  # which says what is missing
    if near:
        fields = " nor ".join(f"{layout.telltale!r} ({layout.name})" for layout in near)
        raise ValueError(f"config.json has model_type={shown(kind)}, but neither the field {fields}")
    raise ValueError(
        f"config.json has model_type={shown(kind)}, which isn't one of "
        f"{', '.join(sorted({layout.name for layout in layouts}))}; another network can be wrapped with "
        "llada.backbones.huggingface.HuggingFaceBackbone, and a layout of your own given: "
        "from_pretrained(..., layouts=[MyLayout(), *LAYOUTS]), save_pretrained(..., layout=MyLayout())"
    )
