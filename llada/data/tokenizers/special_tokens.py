"""Which token does what, from the files that lie beside a ``tokenizer.json``.

Names come from the tokenizer's files, ids from the model's. The tokenizer's files win, except that both must agree on
the mask.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llada.data.tokenizers.tokenizer import ROLES
from llada.files.json_object import parse_object, read_object

OWN_FILE = "llada_tokenizer.json"
"""What `JsonTokenizer.save` writes for what only the model's files, or the caller, have said."""
MODEL_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILE = "chat_template.jinja"
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"

END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|role_end|>", "<end_of_turn>", "<|end|>")
"""Spellings of the end of a turn. Hardly a checkpoint says which token it is, so the first one that it has is taken."""


def named_roles(folder: Path, ids: dict[str, int]) -> dict[str, int]:
    """Roles as the tokenizer's own files name them.

    Args:
        folder: with the files of `TOKENIZER_FILES`.
        ids: id of every token.

    Raises:
        ValueError: if a file names a token that the tokenizer doesn't have.
    """
    roles: dict[str, int] = {}
    for file in TOKENIZER_FILES:
        content = read_object(folder / file, missing_ok=True)
        for role in ROLES:
            entry = content.get(f"{role}_token")
            name = entry.get("content") if isinstance(entry, dict) else entry
            if name is None or role in roles:
                continue
            if name not in ids:
                raise ValueError(f"{folder / file}: {role}_token is {name!r}, but the tokenizer has no such token")
            roles[role] = ids[name]
    return roles


def numbered_roles(folder: Path) -> dict[str, int]:
    """Roles as the model's files number them, such as ``"mask_token_id": 126336``.

    Raises:
        ValueError: if an id isn't one.
    """
    roles: dict[str, int] = {}
    for file in MODEL_FILES:
        content = read_object(folder / file, missing_ok=True)
        for role in ROLES:
            entry = content.get(f"{role}_token_id")
            found = token_ids(entry, f"{folder / file} says that {role}_token_id")
            if found and role not in roles:
                roles[role] = found[0]  # several ends of text: the first is EOS
    return roles


def stop_ids(folder: Path) -> frozenset[int]:
    """Every token that the model's files name as an end of text (``eos_token_id``), one or several in each.

    Raises:
        ValueError: if an id isn't one.
    """
    ids: set[int] = set()
    for file in MODEL_FILES:
        entry = read_object(folder / file, missing_ok=True).get("eos_token_id")
        ids |= set(token_ids(entry, f"{folder / file} says that eos_token_id"))
    return frozenset(ids)


def token_ids(entry: object, what: str) -> list[int]:
    """One id or a list of them as a list; None and -1, which early conversions write for it, are none.

    Args:
        entry: as it stands in a file.
        what: begins messages.

    Raises:
        ValueError: if an id isn't one.
    """
    ids: list[int] = []
    for found in entry if isinstance(entry, list) else [entry]:
        if found is None or (found == -1 and isinstance(found, int)):
            continue
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise ValueError(f"{what} is {entry!r}, which is no token id")
        ids.append(found)
    return ids


def begins_with_bos(config: Mapping[str, Any], processor: object, bos: str | None) -> bool:
    """Whether a tokenizer puts BOS in front of a text: as ``add_bos_token`` says, or else its post-processor.

    Args:
        config: content of ``tokenizer_config.json``.
        processor: ``post_processor`` of ``tokenizer.json``.
        bos: the token, if there is one.
    """
    said = config.get("add_bos_token")
    if bos is None or isinstance(said, bool):
        return bos is not None and bool(said)
    own = processor if isinstance(processor, dict) else {}
    steps = [step for step in own.get("processors") or [own] if isinstance(step, dict)]
    return any(_first_of(step) == bos for step in steps)


def _first_of(step: dict[str, Any]) -> object:
    """The special token that a step of a post-processor puts in front of a text."""
    if step.get("type") in ("BertProcessing", "RobertaProcessing"):
        return next(iter(step.get("cls") or []), None)
    first = next(iter(step.get("single") or []), None)
    special = first.get("SpecialToken") if isinstance(first, dict) else None
    return special.get("id") if isinstance(special, dict) else None


def mask_among(given: str | int | None, said: dict[str, int | None], ids: dict[str, int], folder: Path) -> int:
    """The mask token; the one role that must be known.

    Args:
        given: by the caller, who knows the model; a token or an id.
        said: by the files, under the names of those who say it.
        ids: id of every token.
        folder: for messages.

    Raises:
        ValueError: if nobody has said which it is, or two say different things.
    """
    if isinstance(given, str):
        if given not in ids:
            raise ValueError(f"there is no token {given!r} in {folder}; the mask must be one of its tokens, or an id")
        given = ids[given]
    known = {who: value for who, value in {"the model": given, **said}.items() if value is not None}
    if not known:
        raise ValueError(
            f"nothing in {folder} says which token is the mask: no mask_token in {TOKENIZER_FILES[0]}, no "
            f"mask_token_id in {MODEL_FILES[0]}. Name one: JsonTokenizer(path, mask='<|mask|>')"
        )
    if len(set(known.values())) > 1:
        claims = ", but ".join(f"{value} for {who}" for who, value in known.items())
        raise ValueError(f"{folder}: the mask is {claims}")
    return next(iter(known.values()))


def read_files(folder: Path) -> dict[str, bytes]:
    """What lies beside a ``tokenizer.json`` and belongs to it, by name."""
    names = (*TOKENIZER_FILES, TEMPLATE_FILE, TOOL_TEMPLATE_FILE)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def template_source(files: Mapping[str, bytes]) -> str | None:
    """The chat template in a tokenizer's files, given by name; None if there is none.

    Raises:
        ValueError: if a file is damaged.
    """
    return _templates(files).get("default")


def tool_template_source(files: Mapping[str, bytes]) -> str | None:
    """The chat template for conversations with tools, if there is another one for these; as `template_source`."""
    return _templates(files).get("tool_use")


def _templates(files: Mapping[str, bytes]) -> dict[str, str]:
    """Templates by their names: a file of its own each, or one or several in the configuration."""
    own = {"default": TEMPLATE_FILE, "tool_use": TOOL_TEMPLATE_FILE}
    found: Any = {name: _text(files[file], file) for name, file in own.items() if file in files}
    if not found:
        name = TOKENIZER_FILES[0]
        said = parse_object(files[name], name).get("chat_template") if name in files else None
        listed = said if isinstance(said, list) else [{"name": "default", "template": said}]
        found = {entry.get("name"): entry.get("template") for entry in listed if isinstance(entry, dict)}
    return {name: source for name, source in found.items() if isinstance(name, str) and isinstance(source, str)}


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error.reason} (byte {error.start + 1})") from error


def end_of_turn(special: Iterable[str]) -> str | None:
    """The token that ends a turn, among the special ones."""
    present = set(special)
    return next((name for name in END_OF_TURN if name in present), None)
