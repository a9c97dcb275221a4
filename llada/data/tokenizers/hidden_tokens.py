"""A ``tokenizer.json`` whose special tokens no text spells.

The package ``tokenizers`` turns the spelling of a special token into the token wherever it stands in a text, and some
kinds of models (Unigram, whole words) find it even without that. So the special tokens are renamed, in the list of
added tokens and in the model's vocabulary alike, to names that begin with a noncharacter; their ids stay.
"""

import json
from pathlib import Path
from typing import Any

SHOWN = "\U0010fffe"
"""Stands for a mask while text is decoded."""
_HIDDEN = "\U0010ffff"


def read_tokens(content: dict[str, Any], file: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The model's vocabulary, token -> id, and the added tokens."""
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pairs of a piece and its score
        vocabulary = {pair[0]: index for index, pair in enumerate(vocabulary) if isinstance(pair, list) and pair}
    if not isinstance(vocabulary, dict) or not all(isinstance(i, int) for i in vocabulary.values()):
        raise ValueError(f"{file} is not a tokenizer of the package tokenizers: it has no model with a vocabulary")
    if not all(isinstance(token, dict) and _is_named(token) for token in added):
        raise ValueError(f"{file} is damaged: an added token has no content or no id")
    return vocabulary, added


def _is_named(token: dict[str, Any]) -> bool:
    return isinstance(token.get("content"), str) and isinstance(token.get("id"), int)


def load_hidden(content: dict[str, Any], special: dict[str, int], vocabulary: dict[str, int], file: Path) -> Any:
    """The tokenizer with hidden special tokens."""
    try:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Processor
    except ImportError as error:
        raise ImportError(f"{file} needs the package tokenizers: pip install llada[hf]") from error
    # Spellings in the file; a single letter with a role would be missing from every text.
    base = sorted(name for name in special if len(name) == 1 and name in vocabulary)
    if base:
        raise ValueError(f"{file}: {base[0]!r} is a letter of the alphabet and can't be a special token as well")
    hidden = {name: hidden_name(index) for name, index in special.items()}
    model = dict(content["model"])
    model["vocab"] = _renamed(model["vocab"], hidden)
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _touches(pair, hidden)]
    added = [_hide(token, hidden) for token in content.get("added_tokens") or []]
    changed = {**content, "model": model, "added_tokens": added}
    changed |= {"truncation": None, "padding": None, "post_processor": None}  # they cut rows and add tokens
    try:
        processor = Processor.from_str(json.dumps(changed))
    except Exception as error:  # the package raises plain Exceptions
        raise ValueError(f"{file} is not a tokenizer that the package tokenizers can read: {error}") from error
    processor.add_tokens([AddedToken(SHOWN, special=True)])
    processor.encode_special_tokens = True  # not even the new names are read from text
    _check_ids(processor, special, hidden, file)
    for token in content.get("added_tokens") or []:
        index = processor.token_to_id(hidden.get(token["content"], token["content"]))
        if index != token["id"]:
            raise ValueError(
                f"{file} contradicts itself: {token['content']!r} is number {token['id']} and number {index}"
            )
    return processor


def hidden_name(index: int) -> str:
    """The new name of a special token."""
    return f"{_HIDDEN}{index}"


def is_hidden(text: str) -> bool:
    """Whether a text has a noncharacter, by which it could spell a hidden name."""
    return _HIDDEN in text or SHOWN in text


def reads_context(content: dict[str, Any]) -> bool:
    """Whether a text is cut otherwise behind a special token than alone.

    So it is if a token takes the white space beside it (``lstrip``, ``rstrip``), or if only the first word of a row
    gets a space in front (``"prepend_scheme": "first"``).
    """
    strips = any(token.get("lstrip") or token.get("rstrip") for token in content.get("added_tokens") or [])
    return strips or '"prepend_scheme": "first"' in json.dumps(content.get("pre_tokenizer"))


def load_for_rows(processor: Any, special: dict[str, int]) -> Any:
    """A copy of a tokenizer with hidden special tokens that reads their hidden names from a text.

    Args:
        processor: from `load_hidden`.
        special: name and id of every special token.
    """
    from tokenizers import AddedToken

    rows = type(processor).from_str(processor.to_str())
    names = [hidden_name(index) for index in special.values()]
    known = [name for name in names if rows.token_to_id(name) is not None]
    listed = {token.content for token in rows.get_added_tokens_decoder().values()}
    rows.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in known if name not in listed])
    rows.encode_special_tokens = False
    return rows


def unknown_token(model: dict[str, Any]) -> str | None:
    """The token that stands for unknown characters."""
    index = model.get("unk_id")
    if isinstance(index, int) and isinstance(model["vocab"], list) and 0 <= index < len(model["vocab"]):
        return str(model["vocab"][index][0])
    name = model.get("unk_token")
    return name if isinstance(name, str) else None


def _renamed(vocabulary: Any, hidden: dict[str, str]) -> Any:
    if isinstance(vocabulary, list):
        return [[hidden.get(piece, piece), score] for piece, score in vocabulary]
    return {hidden.get(piece, piece): index for piece, index in vocabulary.items()}


def _touches(pair: str | list[str], hidden: dict[str, str]) -> bool:
    """Whether a merge makes or uses a special token."""
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left in hidden or right in hidden or left + right in hidden


def _hide(token: dict[str, Any], hidden: dict[str, str]) -> dict[str, Any]:
    if token["content"] not in hidden:
        return token
    return {**token, "content": hidden[token["content"]], "special": True, "normalized": False}


def _check_ids(processor: Any, special: dict[str, int], hidden: dict[str, str], file: Path) -> None:
    for name, index in special.items():
        found = processor.token_to_id(hidden[name])
        if found is not None and found != index:
            raise ValueError(f"{file} contradicts itself: {name!r} is number {index} and number {found}")
