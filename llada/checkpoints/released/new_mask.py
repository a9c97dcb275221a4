"""A mask token for a checkpoint that has none: in vocabulary, embedding and tokenizer at once.

A next-token model has no mask. The new token's id is the first behind all tokens of the tokenizer. Where the embedding
has a spare row there, as Qwen's has, that is taken as it is stored; where the vocabulary ends there, embedding and head
get a further row with the mean of the others when the folder is read (`llada.checkpoints.released.materialise.fill`).
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llada.checkpoints.released.arithmetic import shown
from llada.checkpoints.released.mask import find_mask, token_tables
from llada.files.json_object import read_object

OWN_FILE = "llada_tokenizer.json"
"""Where a tokenizer keeps what its own file has no place for."""


@contextmanager
def with_new_mask(folder: Path, token: str = "<|mask|>") -> Iterator[tuple[Path, int]]:
    """The folder of a checkpoint as it looks with a mask token; the folder itself stays as it is.

    Args:
        folder: of a checkpoint without a mask.
        token: how the mask is spelt. A SentencePiece model calls it ``<mask>`` whatever is said here.

    Yields:
        A folder with links to all other files, to be read with the id as ``mask_token_id``; and the id.

    Raises:
        ValueError: if there is a mask already, the token is one already, or the tokenizer has more tokens than the
            embedding has rows.
    """
    config = read_object(folder / "config.json")
    known = config.get("mask_token_id")
    known = find_mask(folder) if known in (None, -1) else known
    if known is not None:
        raise ValueError(f"{folder} has a mask already, token {known}; leave --add_mask out, or choose with --mask ID")
    mask = _free_id(folder, token, config)
    with tempfile.TemporaryDirectory() as place:
        view, written = Path(place), dict(_changed(folder, token, mask))
        for path in folder.iterdir():
            if path.name not in written:
                (view / path.name).symlink_to(path.absolute())
        for name, content in written.items():
            (view / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        yield view, mask


def _free_id(folder: Path, token: str, config: dict[str, Any]) -> int:
    """The first id behind all tokens that are there."""
    rows = next((config[name] for name in ("embedding_size", "vocab_size") if config.get(name)), None)
    if not isinstance(rows, int):
        raise ValueError(f"{folder / 'config.json'} has no vocab_size, so that nobody knows which ids are free")
    tables = token_tables(folder)
    for file, table in tables.items():
        if token in table:
            raise ValueError(
                f"{shown(token)} is token {table[token]} of {file} already; take it with --mask {token}, or give "
                "--add_mask another name"
            )
    used = [1 + max(table.values()) for table in tables.values() if table]
    if (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor  # it takes a while, and hardly a folder needs it

        used.append(SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size())
    free = max(used, default=rows)
    if free > rows:
        raise ValueError(f"the tokenizer in {folder} has {free} tokens, and the embedding {rows} rows: they don't fit")
    return free


def _changed(folder: Path, token: str, mask: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files of the tokenizer that tell of the new token, by name."""
    flags = {name: False for name in ("single_word", "lstrip", "rstrip", "normalized")} | {"special": True}
    own = (folder / "tokenizer.json").is_file()
    if own:
        content = read_object(folder / "tokenizer.json")
        content["added_tokens"] = [*(content.get("added_tokens") or []), {"id": mask, "content": token, **flags}]
        yield "tokenizer.json", content
    parts = (folder / "vocab.json").is_file()
    if parts or (folder / "added_tokens.json").is_file():
        yield "added_tokens.json", {**read_object(folder / "added_tokens.json", missing_ok=True), token: mask}
    if own or parts:
        settings = read_object(folder / "tokenizer_config.json", missing_ok=True)
        if parts or "added_tokens_decoder" in settings:
            entry = {str(mask): {"content": token, **flags}}
            settings["added_tokens_decoder"] = {**settings.get("added_tokens_decoder", {}), **entry}
        yield "tokenizer_config.json", {**settings, "mask_token": token}
    elif (folder / "tokenizer.model").is_file():
        said = read_object(folder / OWN_FILE, missing_ok=True)
        yield OWN_FILE, {**said, "roles": {**said.get("roles", {}), "mask": mask}}
    if (folder / "special_tokens_map.json").is_file():
        yield "special_tokens_map.json", {**read_object(folder / "special_tokens_map.json"), "mask_token": token}
