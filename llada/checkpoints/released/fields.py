"""The fields of a ``config.json``: each has a type and a range; one that isn't understood is named.

Which of those are refused is in `llada.checkpoints.released.arithmetic`.
"""

import math
from collections.abc import Mapping
from typing import Any

from llada.checkpoints.released.arithmetic import is_neutral, is_plain_rotation, kind_of, shown
from llada.checkpoints.released.notice import warn

Config = dict[str, Any]
CONFIG = "config.json"

GENERIC = frozenset(
    {
        "_name_or_path", "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id",
        "initializer_range", "mask_token_id", "model_type", "pad_token_id", "return_dict", "torch_dtype",
        "transformers_version", "use_cache", "add_cross_attention", "chunk_size_feed_forward",
        "cross_attention_hidden_size", "decoder_start_token_id", "finetuning_task", "id2label", "is_decoder",
        "is_encoder_decoder", "label2id", "output_attentions", "output_hidden_states", "prefix", "problem_type",
        "pruned_heads", "sep_token_id", "task_specific_params", "tf_legacy_loss", "tie_encoder_decoder",
        "tokenizer_class", "torchscript", "use_bfloat16", "bad_words_ids", "begin_suppress_tokens",
        "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
        "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
        "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
        "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
    }
)  # fmt: skip
"""Fields of any Hugging Face configuration that don't change what the network computes: who wrote it, labels of
classifiers, and settings of generation, which older versions wrote into every file."""
UNSERVED = ("add_cross_attention", "is_decoder", "is_encoder_decoder")
"""Those of them that must be off."""


def field(config: Config, name: str, file: str = CONFIG) -> Any:
    """A field that must be there.

    Raises:
        ValueError: if it isn't.
    """
    if name not in config:
        raise ValueError(f"{file} has no field {name!r}")
    return config[name]


def whole(config: Config, name: str, default: int | None = None, *, file: str = CONFIG) -> int:
    """A whole number, 1 or more.

    Args:
        config: content of ``config.json``.
        name: name of the field.
        default: value that an absent field or a null stands for; None if the field must be there.
        file: what messages call the file.

    Raises:
        ValueError: naming the field, if it is missing or something else.
    """
    value = _present(config, name, default, file)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name}={shown(value)}, but it must be a whole number, 1 or more")
    return value


def number(config: Config, name: str, default: float | None = None, *, zero: bool = False, file: str = CONFIG) -> float:
    """A positive number, or with ``zero`` one that may be 0; arguments and errors as in `whole`."""
    value = _present(config, name, default, file)
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        range_ = "0 or more" if zero else "above 0"
        raise ValueError(f"{file} has {name}={shown(value)}, but it must be a finite number, {range_}")
    return float(value)


def flag(config: Config, name: str, default: bool | None = None) -> bool:
    """True or false; arguments and errors as in `whole`."""
    value = _present(config, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"config.json has {name}={shown(value)}, but it must be true or false")
    return value


def _present(config: Config, name: str, default: Any, file: str = CONFIG) -> Any:
    value = field(config, name, file) if default is None else config.get(name)
    return default if value is None else value


def check_uniform(config: Config, name: str, value: Any, length: int) -> None:
    """Refuse a list with a word per layer that isn't the same word for all layers; an absent one is right.

    Args:
        config: content of ``config.json``.
        name: of the field.
        value: the only word that can be served.
        length: number of layers, as claimed.

    Raises:
        ValueError: naming the field.
    """
    found = config.get(name)
    if found in (None, [], value):
        return
    if not isinstance(found, list) or len(found) != length or any(item != value for item in found):
        raise ValueError(f"config.json has {name}={shown(found)}, but only {value!r} in every layer can be loaded")


class MaskMissing(ValueError):
    """The configuration names no mask token, and nobody has given one."""


def check_others(config: Config, used: set[str], served: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what changes the arithmetic and isn't understood, and warn of the rest.

    Args:
        config: content of ``config.json``.
        used: fields that are read elsewhere.
        served: other known fields, and the values that this library can serve.

    Raises:
        ValueError: naming the field, its value and what can be served or done.
    """
    unknown = []
    for name, value in config.items():
        if name in served:
            if value not in served[name] and not (name == "rope_scaling" and is_plain_rotation(value)):
                options = " or ".join(map(repr, served[name]))
                raise ValueError(f"config.json has {name}={shown(value)}, but only {options} can be loaded")
        elif name in UNSERVED and value:
            raise ValueError(f"config.json has {name}={shown(value)}, but only False can be loaded")
        elif name not in used and name not in GENERIC and not is_neutral(name, value):
            kind = kind_of(name)
            if kind is not None:
                raise ValueError(
                    f"config.json has the field {name}={shown(value)}, which isn't understood and by its name changes "
                    f"the arithmetic ({kind}); where you know that it doesn't: ignore_fields=[{name!r}], or "
                    f"--ignore_config_field {name}"
                )
            unknown.append(name)
    if unknown:
        warn(f"config.json has fields that aren't understood, and are left aside: {', '.join(sorted(unknown))}")


def mask_id(config: Config, given: int | None) -> int:
    """The mask token, given or stored; a negative one, as older files have it, stands for none.

    Raises:
        MaskMissing: if there is none.
        ValueError: if it isn't a whole number.
    """
    found = config.get("mask_token_id") if given is None else given
    if found is None or (given is None and found == -1):
        raise MaskMissing(
            "config.json names no mask_token_id; give one with mask_token_id= (--mask ID), such as an id that the "
            "tokenizer reserves"
        )
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"mask_token_id={shown(found)} must be a whole number, 0 or more")
    return found
