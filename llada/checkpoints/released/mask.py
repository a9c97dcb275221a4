"""The mask token, looked up in the tokenizer's files where ``config.json`` doesn't tell its id.

Asked in this order: ``mask_token`` of the tokenizer's files, and the spellings that published models use.
"""

from pathlib import Path
from typing import Any

from llada.checkpoints.released.arithmetic import shown
from llada.files.json_object import read_object

SPELLINGS = ("<|mdm_mask|>", "<|mask|>", "<|MASK|>", "|<MASK>|", "[MASK]", "<mask>")
"""LLaDA and LLaDA-MoE; SDAR and dLLM; LLaDA2; Fast-dLLM v2; BERT's tokenizers; RoBERTa's."""
NAMING = ("tokenizer_config.json", "special_tokens_map.json")


def find_mask(folder: Path, token: str | None = None) -> int | None:
    """The id of the mask token.

    Args:
        folder: of the checkpoint.
        token: how it is spelt; None: as the files say, or as usual.

    Returns:
        The id; None if no file has one.

    Raises:
        ValueError: if ``token`` isn't there, two files give it different ids, or a file is damaged.
    """
    tables = token_tables(folder)
    named = [_content(read_object(folder / file, missing_ok=True).get("mask_token")) for file in NAMING]
    for name in [*filter(None, named), *SPELLINGS] if token is None else [token]:
        ids = {file: table[name] for file, table in tables.items() if name in table}
        if len(set(ids.values())) > 1:
            said = ", ".join(f"{index} in {file}" for file, index in ids.items())
            raise ValueError(f"{folder}: the token {name!r} has different ids: {said}; give mask_token_id= (--mask ID)")
        if ids:
            return next(iter(ids.values()))
    if token is not None:
        raise ValueError(f"the tokenizer's files in {folder} have no token {shown(token)}, which is to be the mask")
    return None


def token_tables(folder: Path) -> dict[str, dict[str, int]]:
    """Ids by token, of each file in a checkpoint's folder that has some."""
    fast = read_object(folder / "tokenizer.json", missing_ok=True)
    added = fast.get("added_tokens")
    listed = added if isinstance(added, list) else []
    model = fast.get("model")
    decoder = read_object(folder / NAMING[0], missing_ok=True).get("added_tokens_decoder")
    entries = decoder.items() if isinstance(decoder, dict) else ()
    tables: dict[str, Any] = {
        "tokenizer.json": {_content(entry): entry.get("id") for entry in listed if isinstance(entry, dict)},
        NAMING[0]: {_content(entry): int(index) for index, entry in entries if index.isdecimal()},
        "added_tokens.json": read_object(folder / "added_tokens.json", missing_ok=True),
        "vocab.json": read_object(folder / "vocab.json", missing_ok=True),
        "the vocabulary of tokenizer.json": model.get("vocab") if isinstance(model, dict) else None,
    }
    return {
        file: {name: index for name, index in table.items() if isinstance(index, int) and not isinstance(index, bool)}
        for file, table in tables.items()
        if isinstance(table, dict)
    }


def _content(entry: Any) -> str | None:
    """A token, spelt out or in an object."""
    found = entry.get("content") if isinstance(entry, dict) else entry
    return found if isinstance(found, str) else None
