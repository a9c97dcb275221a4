"""A byte-level BPE in parts: ``vocab.json``, ``merges.txt`` and ``added_tokens.json``, as Dream and its kin ship it.

The parts are put together to what a ``tokenizer.json`` of the same tokenizer says. How a text is cut into words before
merging stands in none of the files: it belongs to the class that ``tokenizer_config.json`` names.
"""

from pathlib import Path
from typing import Any

from llada.data.tokenizers.special_tokens import MODEL_FILES, TOKENIZER_FILES
from llada.data.tokenizers.tokenizer import ROLES
from llada.files.json_object import read_object

VOCABULARY, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words of Qwen2's tokenizer, which Dream has taken over; digits stand alone.

Source: https://huggingface.co/Qwen/Qwen2.5-7B, pre_tokenizer in tokenizer.json.
"""
_QWEN2, _GPT2 = ("Qwen2", "Dream"), ("GPT2", "Roberta", "Longformer", "Bart")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def has_parts(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in parts."""
    return (folder / VOCABULARY).is_file() and (folder / MERGES).is_file()


def read_parts(folder: Path) -> dict[str, bytes]:
    """The files, by name."""
    return {name: (folder / name).read_bytes() for name in (VOCABULARY, MERGES, ADDED) if (folder / name).is_file()}


def parts_as_json(folder: Path) -> dict[str, Any]:
    """What a ``tokenizer.json`` of the same tokenizer holds.

    Args:
        folder: with the parts, and perhaps ``tokenizer_config.json``.

    Raises:
        ValueError: if a file is damaged, or the tokenizer's class isn't one whose words are known here.
    """
    config = read_object(folder / TOKENIZER_FILES[0], missing_ok=True)
    vocabulary = read_object(folder / VOCABULARY)
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise ValueError(f"{folder / VOCABULARY} is damaged: not every token has a number")
    normalizer, words = _words(folder, config)
    prefix = bool(config.get("add_prefix_space", False))
    split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
    first = [] if words is None else [split]
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": False, "use_regex": words is None}
    return {
        "version": "1.0",
        "added_tokens": _added(folder, config, vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _merges(folder / MERGES)},
    }


def _words(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Normaliser and pattern of the tokenizer's class; no pattern for GPT-2's, which the package has built in."""
    named = config.get("tokenizer_class")
    if named is None:
        named = str(read_object(folder / MODEL_FILES[0], missing_ok=True).get("model_type", "gpt2"))
    name = str(named).lower()
    if any(kind.lower() in name for kind in _QWEN2):
        return {"type": "NFC"}, QWEN2_WORDS
    if any(kind.lower() in name for kind in _GPT2):
        return None, None
    raise ValueError(
        f"{folder} has {VOCABULARY} and {MERGES} of a {named}, and how that cuts text into words isn't known here; "
        f"known are {', '.join((*_QWEN2, *_GPT2))}. Save it with transformers, so that there is a tokenizer.json"
    )


def _merges(file: Path) -> list[list[str]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error.reason} (byte {error.start + 1})") from error
    kept = [line.rstrip("\r") for number, line in enumerate(lines) if number or not line.startswith("#version")]
    merges = [line.split(" ") for line in kept if line]
    if not all(len(pair) == 2 for pair in merges):
        wrong = next(" ".join(pair) for pair in merges if len(pair) != 2)
        raise ValueError(f"{file} is damaged: {wrong!r} is no pair of tokens")
    return merges


def _added(folder: Path, config: dict[str, Any], vocabulary: dict[str, int]) -> list[dict[str, Any]]:
    """Added tokens: numbers of ``added_tokens.json``, and what ``tokenizer_config.json`` says of them."""
    known = config.get("added_tokens_decoder") or {}
    found: dict[str, dict[str, Any]] = {}
    for index, entry in known.items():
        found[str(entry["content"])] = {"id": int(index), **{flag: bool(entry.get(flag)) for flag in _FLAGS}}
    for token, index in read_object(folder / ADDED, missing_ok=True).items():
        if found.setdefault(token, {"id": index, **dict.fromkeys(_FLAGS, False)})["id"] != index:
            raise ValueError(
                f"{folder} contradicts itself: {token!r} is number {index} and number {found[token]['id']}"
            )
    for file in TOKENIZER_FILES:
        content = read_object(folder / file, missing_ok=True)
        entries = [content.get(f"{role}_token") for role in (*ROLES, "unk", "sep", "cls")]
        for entry in [*entries, *(content.get("additional_special_tokens") or [])]:
            name: Any = entry.get("content") if isinstance(entry, dict) else entry
            if name in vocabulary and name not in found:
                found[name] = {"id": vocabulary[name], **dict.fromkeys(_FLAGS, False)}
            if name in found:
                found[name]["special"] = True
    return sorted(({"content": name, **entry} for name, entry in found.items()), key=lambda token: token["id"])
