"""``tokenizer.json``: the tokenizers of released checkpoints, read by the package ``tokenizers`` (extra ``hf``).

A special token has a spelling in these files, and the package would turn that spelling into the token wherever it stands
in a text. So the tokenizer is loaded with all special tokens renamed to something that no text spells: "<|eot_id|>" in
a message is cut into pieces like every other text.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llada.data.atomic import write_bytes
from llada.data.special_tokens import (
    MODEL_FILES,
    OWN_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    end_of_turn,
    mask_among,
    named_roles,
    numbered_roles,
    read_object,
)
from llada.data.tokenizer import Tokenizer

JSON_NAME = "tokenizer.json"
_HIDDEN, _SHOWN = "\U0010ffff", "\U0010fffe"  # noncharacters: no text has a use for them
_PROBE = " a  b\n\n c\té\U00013000 <x>  "


class JsonTokenizer(Tokenizer):
    """A ``tokenizer.json`` with its special tokens by role.

    Roles come from ``tokenizer_config.json`` and ``special_tokens_map.json``, and what those don't say from the model's
    ``config.json`` and ``generation_config.json`` (LLaDA-8B has its mask there). All added tokens marked as special, and
    those with a role, are special: no text gives them. Added tokens that aren't marked, such as "<think>" of some
    models, are text. Other than with `SentencePieceTokenizer`, the round trip is exact only if the file is of a kind
    that loses nothing (see `lossless`): a normaliser such as NFC or lower-casing changes text, and a vocabulary without
    bytes turns unknown characters into its unknown token.

    Args:
        path: the file, or the folder that holds it.
        mask: token or id that is the mask, where the files don't say, as for autoregressive checkpoints. The id may
            lie beyond the file's own tokens, as MDLM's 50257 does.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package ``tokenizers``.
        ValueError: if a file is damaged, or nothing says which token is the mask.
    """

    def __init__(self, path: str | Path, mask: str | int | None = None) -> None:
        self.path, self.mask = path, mask
        file = Path(path) / JSON_NAME if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no tokenizer file {file}")
        folder = file.parent
        self._file = file.read_bytes()
        kept = (*TOKENIZER_FILES, TEMPLATE_FILE)
        self._others = {name: (folder / name).read_bytes() for name in kept if (folder / name).is_file()}
        content = read_object(file)
        vocabulary, added = _read_tokens(content, file)
        ids = vocabulary | {token["content"]: token["id"] for token in added}
        own = read_object(folder / OWN_FILE)
        named, numbered = named_roles(folder, ids), numbered_roles(folder) | own.get("roles", {})
        roles = numbered | named | {"mask": mask_among(mask, named, numbered, ids, folder)}
        special = {token["content"]: token["id"] for token in added if token.get("special")}
        if "eot" not in roles and (turn := end_of_turn(special)) is not None:
            roles["eot"] = special[turn]
        self._roles = roles
        self._special = _with_roles(special, roles, ids)
        sizes = [read_object(folder / MODEL_FILES[0]).get("vocab_size"), own.get("vocab_size")]
        self._vocab_size = max([*(s for s in sizes if isinstance(s, int)), *(i + 1 for i in (*ids.values(), *roles.values()))])
        self._processor, unknown = _load(content, self._special, vocabulary, file)
        self._shown = self._processor.token_to_id(_SHOWN)
        self._hidden = frozenset(self._special.values())
        if unknown is not None and self._special.get(unknown) not in roles.values():
            self._special.pop(unknown, None)  # text gives it
        self._never = frozenset(self._special.values())

    @property
    def vocab_size(self) -> int:
        """Number of ids: the rows of the checkpoint's embedding, which may be more than there are tokens."""
        return self._vocab_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file and of the roles."""
        roles = json.dumps([sorted(self._special.items()), sorted(self._roles.items())])
        return hashlib.sha256(self._file + roles.encode()).hexdigest()

    @property
    def lossless(self) -> bool:
        """Whether a text with spaces, blank lines, accents and rare characters comes back unchanged."""
        return self.decode(self.encode(_PROBE)) == _PROBE

    @property
    def mask_token_id(self) -> int:
        """The mask token of the diffusion."""
        return self._roles["mask"]

    @property
    def bos_token_id(self) -> int | None:
        """Begins a document."""
        return self._roles.get("bos")

    @property
    def eos_token_id(self) -> int | None:
        """Ends a document."""
        return self._roles.get("eos")

    @property
    def pad_token_id(self) -> int | None:
        """Fills rows."""
        return self._roles.get("pad")

    @property
    def eot_token_id(self) -> int | None:
        """Ends a turn; see `llada.data.special_tokens.END_OF_TURN`."""
        return self._roles.get("eot")

    @property
    def special_tokens(self) -> dict[str, int]:
        """Name and id of every token that text can't produce."""
        return dict(self._special)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        for text in texts:
            _check_characters(text)
        encoded = [e.ids for e in self._processor.encode_batch_fast(list(texts), add_special_tokens=False)]
        for text, ids in zip(texts, encoded, strict=True):
            if not self._never.isdisjoint(ids):
                raise ValueError(
                    f"{self.path} would write a special token for a part of {text[:60]!r}, most likely for a character "
                    "that it doesn't know; take that out of the text"
                )
        return encoded

    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        """See `Tokenizer`; ids of the vocabulary that no token has give nothing."""
        kept = []
        for index in map(int, ids):
            if not 0 <= index < self._vocab_size:
                raise ValueError(f"token id {index} is outside the vocabulary of {self._vocab_size}")
            if index == self.mask_token_id and show_mask:
                kept.append(self._shown)
            elif index not in self._never:
                kept.append(index)
        text: str = self._processor.decode(kept, skip_special_tokens=False)
        return text.replace(_SHOWN, show_mask) if self._shown in kept else text

    def save(self, folder: str | Path) -> None:
        """Write the files as they were read, and, in a file of our own, what the model's files said."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        own = {"roles": self._roles, "vocab_size": self._vocab_size}
        written = {JSON_NAME: self._file, **self._others, OWN_FILE: (json.dumps(own, indent=1) + "\n").encode()}
        for name, content in written.items():
            write_bytes(folder / name, content)

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask={self.mask!r}"
        return f"{type(self).__name__}({str(self.path)!r}{mask})"


def _read_tokens(content: dict[str, Any], file: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The model's vocabulary, token -> id, and the added tokens."""
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pairs of a piece and its score
        vocabulary = {pair[0]: index for index, pair in enumerate(vocabulary) if isinstance(pair, list) and pair}
    if not isinstance(vocabulary, dict) or not all(isinstance(i, int) for i in vocabulary.values()):
        raise ValueError(f"{file} is not a tokenizer of the package tokenizers: it has no model with a vocabulary")
    if not all(isinstance(t, dict) and isinstance(t.get("content"), str) and isinstance(t.get("id"), int) for t in added):
        raise ValueError(f"{file} is damaged: an added token has no content or no id")
    return vocabulary, added


def _with_roles(special: dict[str, int], roles: dict[str, int], ids: dict[str, int]) -> dict[str, int]:
    """The special tokens and those with a role; a role beyond the tokens of the file is called after itself."""
    special = dict(special)
    names = {index: name for name, index in ids.items()}
    for role, index in roles.items():
        if index not in special.values():
            special[names.get(index, f"<{role}>")] = index
    return special


def _load(
    content: dict[str, Any], special: dict[str, int], vocabulary: dict[str, int], file: Path
) -> tuple[Any, str | None]:
    """The tokenizer with hidden special tokens, and the name of its token for the unknown."""
    try:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Processor
    except ImportError as error:
        raise ImportError(f"{file} needs the package tokenizers: pip install llada[hf]") from error
    # Spellings in the file; a single letter with a role would be missing from every text.
    base = sorted(name for name in special if len(name) == 1 and name in vocabulary)
    if base:
        raise ValueError(f"{file}: {base[0]!r} is a letter of the alphabet and can't be a special token as well")
    hidden = {name: f"{_HIDDEN}{index}" for name, index in special.items()}
    model = dict(content["model"])
    unknown = _unknown(model)
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
    processor.add_tokens([AddedToken(_SHOWN, special=True)])
    processor.encode_special_tokens = True  # not even the new names are read from text
    _check_ids(processor, special, hidden, file)
    return processor, unknown


def _unknown(model: dict[str, Any]) -> str | None:
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
            raise ValueError(f"{file} contradicts itself: {name!r} is number {index} in one place and {found} in another")


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is no "
            "character; decode it as UTF-16, or drop it"
        ) from error
