"""Which fields of a ``config.json`` change what a network computes, by their names.

Configurations hold more than the arithmetic: what the writing program was, how to generate, how to compute faster. A
field that no layout knows is left aside with a warning, unless its name is of one of the kinds below: then the stored
weights are meant for another computation than ours, which nothing else would show. What the tensors tell (a bias, a
further layer, another vocabulary) needs no kind: a tensor that doesn't fit is refused anyway.
"""

import re
from collections.abc import Mapping
from typing import Any

KINDS: Mapping[str, str] = {
    "position": r"rope|rotary|alibi|yarn|position_(embedding_type|bias|scal|interpol)|pos_emb|original_max_position"
    r"|relative_(attention|position)|longformer|ntk",
    "norm": r"norm",
    "attention mask": r"window|sliding|sink|causal|chunk_(attention|length)|(attention|attn)_(chunk|mask|span|type)"
    r"|dual_chunk|sparse|local_att|global_att|layer_types|is_decoder|cross_att|prefix_lm|kv_shar|cross_layer"
    r"|differential|query_pre|attn_temp|temperature_tuning|off_by_one",
    "block": r"block|(^|_)bd_size|canvas",
    "quantisation": r"quant|(^|_)(n?bits|fp8|fp4|int8|int4|gptq|awq|bnb|bitnet)(_|$)",
    "scale": r"softcap|scal(e|ing|ar)|multiplier|logits?_(cap|bias)|dim_model_base|(^|_)mup(_|$)|clip",
    "residual": r"residual|parallel_(attn|attention|block|mlp)|per_layer|hyper_conn|altup|laurel",
    "experts": r"expert|router|routed|moe|topk|top_k_|n_group|(^|_)gat(e|ed|ing)(_|$)|mixture|dense_replace"
    r"|mlp_only_layers",
    "activation": r"(^|_)act(_|$)|activation|glu(_|$)|(mlp|ffn)_type",
    "mixer": r"(^|_)(ssm|mamba|conv|recurrent|linear_att\w*|state_size|d_state)(_|$)",
    "condition": r"condition|timestep|(^|_)(sigma|time_embed\w*)(_|$)",
    "shift": r"shift",
}
"""Kind -> expression for the names of such fields; each changes numbers without changing the name or shape of a tensor.

Blocks, windows and masks change who sees whom; experts are chosen and weighted in several ways from the same matrices;
a shift says at which position an output is read.
"""
_KIND = {kind: re.compile(expression) for kind, expression in KINDS.items()}

HARMLESS = re.compile(
    r"implementation|checkpoint|dropout|loss|jitter|grad_norm|output_router_logits|fp32|dtype|precision"
    r"|(^|_)(init|initializer|fused?)(_|$)"
)
"""Names that hold a word of a kind and yet change rounding or training alone: how it is computed, not what."""
NEUTRAL: tuple[Any, ...] = (None, False, 0, "", [], {})
NEUTRAL_OF: Mapping[str, tuple[Any, ...]] = {
    "scale": (1,),
    "position": (1, "rope", "rotary", "default"),
    "attention mask": ("full", "full_attention"),
}
"""Values that leave the arithmetic as it is: a factor of 1, and words (also in lists) for what all networks here do."""


def kind_of(name: str) -> str | None:
    """The kind of arithmetic that a field of this name changes; None for one that changes nothing."""
    lower = name.lower()
    if HARMLESS.search(lower):
        return None
    return next((kind for kind, expression in _KIND.items() if expression.search(lower)), None)


def is_neutral(name: str, value: Any) -> bool:
    """Whether a field with this value may be left aside without a word."""
    if value in NEUTRAL:
        return True
    kind = kind_of(name)
    if kind == "position" and isinstance(value, dict):
        return is_plain_rotation(value)
    usual = NEUTRAL_OF.get(kind or "", ())
    if isinstance(value, list):  # a word per layer
        return all(isinstance(item, str) and item in usual for item in value)
    return value is not True and value in usual


def is_plain_rotation(value: Any) -> bool:
    """Whether the rotary positions that ``rope_scaling`` or ``rope_parameters`` describe are neither scaled nor cut."""
    if not isinstance(value, dict):
        return value is None
    rest = {key: item for key, item in value.items() if key not in ("rope_type", "type", "rope_theta")}
    plain = value.get("rope_type", value.get("type", "default")) in ("default", None)
    return plain and all(item is None or (key == "partial_rotary_factor" and item == 1) for key, item in rest.items())


def without_fields(config: dict[str, Any], ignored: tuple[str, ...]) -> dict[str, Any]:
    """A configuration as if these fields weren't in it; the base of a rotation that is ignored stays.

    Args:
        config: content of ``config.json``.
        ignored: names of fields.
    """
    kept = {name: value for name, value in config.items() if name not in ignored}
    rotation = config.get("rope_parameters")
    if "rope_parameters" in ignored and isinstance(rotation, dict) and "rope_theta" in rotation:
        kept.setdefault("rope_theta", rotation["rope_theta"])
    return kept


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
