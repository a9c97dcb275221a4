"""Dream-7B: Qwen2's body and names, bidirectional, outputs shifted by one place.

Reference: the released ``configuration_dream.py`` of arXiv 2508.15487.
"""

from llada.checkpoints.released.autoregressive import QWEN2_DEFAULTS, WINDOW
from llada.checkpoints.released.llama import LlamaStyleLayout

FILES = {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
DREAM = LlamaStyleLayout(
    "dream",
    "Dream",
    "DreamModel",
    qkv_bias=True,
    body="qwen2",
    written={**WINDOW, "auto_map": FILES, "use_mrope": False},
    defaults=QWEN2_DEFAULTS,
)
