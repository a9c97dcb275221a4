"""``tokenizer.json``: the tokenizers of released checkpoints, read by the package ``tokenizers`` (extra ``hf``).

A folder with the parts of a byte-level BPE instead is read alike; see `llada.data.tokenizers.byte_level_bpe`.
"<|eot_id|>" in a message is cut into pieces like every other text; `llada.data.tokenizers.hidden_tokens` has the way.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from llada.data.tokenizers.byte_level_bpe import has_parts, parts_as_json, read_parts
from llada.data.tokenizers.hidden_tokens import (
    SHOWN,
    hidden_name,
    is_hidden,
    load_for_rows,
    load_hidden,
    read_tokens,
    reads_context,
    unknown_token,
)
from llada.data.tokenizers.special_tokens import (
    MODEL_FILES,
    OWN_FILE,
    TOKENIZER_FILES,
    begins_with_bos,
    end_of_turn,
    mask_among,
    named_roles,
    numbered_roles,
    read_files,
    stop_ids,
    template_source,
    token_ids,
    tool_template_source,
)
from llada.data.tokenizers.tokenizer import Tokenizer, check_characters
from llada.files.atomic import write_bytes
from llada.files.json_object import read_object

JSON_NAME = "tokenizer.json"
_PROBE = " a  b\n\n c\té\U00013000 <x>  "


class JsonTokenizer(Tokenizer):
    """A ``tokenizer.json`` with its special tokens by role.

    Roles come from ``tokenizer_config.json`` and ``special_tokens_map.json``, and what those don't say from the model's
    ``config.json`` and ``generation_config.json`` (LLaDA-8B has its mask there). All added tokens marked as special,
    and those with a role, are special: no text gives them. Added tokens that aren't marked, such as "<think>" of some
    models, are text. Other than with `SentencePieceTokenizer`, the round trip is exact only if the file is of a kind
    that loses nothing (see `lossless`): a normaliser such as NFC or lower-casing changes text, and a vocabulary without
    bytes turns unknown characters into its unknown token.

    Args:
        path: the file, or the folder that holds it, or ``vocab.json`` and ``merges.txt`` instead.
        mask: token or id that is the mask, where the files don't say, as for autoregressive checkpoints. The id may
            lie beyond the file's own tokens, as MDLM's 50257 does.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package ``tokenizers``.
        ValueError: if a file is damaged, or nothing says which token is the mask.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from llada.data import JsonTokenizer
        >>> made = Tokenizer(models.WordLevel({"<mask>": 0, "hello": 1, "world": 2}))
        >>> made.pre_tokenizer, added = pre_tokenizers.Whitespace(), made.add_special_tokens(["<mask>"])
        >>> with TemporaryDirectory() as folder:
        ...     made.save(f"{folder}/tokenizer.json")
        ...     words = JsonTokenizer(folder, mask="<mask>")
        >>> words.encode("hello world"), words.mask_token_id
        ([1, 2], 0)
    """

    def __init__(self, path: str | Path, mask: str | int | None = None) -> None:
        self.path, self.mask = path, mask
        file, content, self._files = _read(Path(path))
        self._print = self._files.get(JSON_NAME) or json.dumps(content, sort_keys=True).encode()
        folder = file if file.is_dir() else file.parent
        self._others = read_files(folder)
        vocabulary, added = read_tokens(content, file)
        ids = vocabulary | {token["content"]: token["id"] for token in added}
        own = read_object(folder / OWN_FILE, missing_ok=True)
        named, stored, numbered = named_roles(folder, ids), own.get("roles", {}), numbered_roles(folder)
        masks = {"the tokenizer's files": named, OWN_FILE: stored, "the model's files": numbered}
        chosen = mask_among(mask, {who: said.get("mask") for who, said in masks.items()}, ids, folder)
        roles = numbered | stored | named | {"mask": chosen}
        special = {token["content"]: token["id"] for token in added if token.get("special")}
        if "eot" not in roles and (turn := end_of_turn(special)) is not None:
            roles["eot"] = special[turn]
        self._roles = roles
        self._special = _with_roles(special, roles, ids)
        sizes = [read_object(folder / MODEL_FILES[0], missing_ok=True).get("vocab_size"), own.get("vocab_size")]
        least = 1 + max(*ids.values(), *roles.values())
        self._vocab_size = max([least, *(size for size in sizes if isinstance(size, int))])
        stored_stops = token_ids(own.get("stop_token_ids"), f"{folder / OWN_FILE} says that stop_token_ids")
        self._stops = stop_ids(folder) | frozenset(stored_stops)
        more = bool(self._stops - {roles.get("eos")})
        told = roles != named or self._vocab_size != least or more
        self._own = {"roles": roles, "vocab_size": self._vocab_size} if told else {}
        self._own |= {"stop_token_ids": sorted(self._stops)} if more else {}
        bos = next((name for name, index in ids.items() if index == roles.get("bos")), None)
        config = read_object(folder / TOKENIZER_FILES[0], missing_ok=True)
        self._adds_bos = begins_with_bos(config, content.get("post_processor"), bos)
        unknown = unknown_token(content["model"])
        if unknown is not None and self._special.get(unknown) not in roles.values():
            self._special.pop(unknown, None)  # text gives it
        self._processor = load_hidden(content, self._special, vocabulary, file)
        self._in_context = reads_context(content)
        self._shown = self._processor.token_to_id(SHOWN)
        self._never = frozenset(self._special.values())

    @property
    def vocab_size(self) -> int:
        """Number of ids: the rows of the checkpoint's embedding, which may be more than there are tokens."""
        return self._vocab_size

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file and of the roles."""
        roles = json.dumps([sorted(self._special.items()), sorted(self._roles.items())])
        return hashlib.sha256(self._print + roles.encode()).hexdigest()

    @property
    def lossless(self) -> bool:
        """Whether a text with spaces, blank lines, accents and rare characters comes back unchanged."""
        return self.decode(self.encode(_PROBE)) == _PROBE

    @property
    def chat_template(self) -> str | None:
        """Source of the chat template that came with it, for `llada.data.JinjaTemplate`; None if there was none."""
        return template_source(self._others)

    @property
    def tool_template(self) -> str | None:
        """Source of the chat template for conversations with tools; None if the usual one writes these, too."""
        return tool_template_source(self._others)

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
        """Ends a turn; see `llada.data.tokenizers.special_tokens.END_OF_TURN`."""
        return self._roles.get("eot")

    @property
    @override
    def adds_bos(self) -> bool:
        return self._adds_bos

    @property
    @override
    def stop_token_ids(self) -> frozenset[int]:
        return super().stop_token_ids | self._stops

    @override
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            check_characters(text)
        encoded = [e.ids for e in self._processor.encode_batch_fast(list(texts), add_special_tokens=False)]
        for text, ids in zip(texts, encoded, strict=True):
            if not self._never.isdisjoint(ids):
                raise ValueError(
                    f"{self.path} would write a special token for a part of {text[:60]!r}, most likely for a character "
                    "that it doesn't know; take that out of the text"
                )
        return encoded

    @override
    def encode_pieces(self, pieces: Sequence[str | int]) -> list[int]:
        names = {index: hidden_name(index) for index in pieces if isinstance(index, int)}
        said = [piece for piece in pieces if isinstance(piece, str)]
        known = (
            all(self._rows.token_to_id(name) == index for index, name in names.items()) if self._in_context else False
        )
        if not known or any(is_hidden(text) for text in said):
            return super().encode_pieces(pieces)
        for text in said:
            check_characters(text)
        row = "".join(piece if isinstance(piece, str) else names[piece] for piece in pieces)
        ids: list[int] = self._rows.encode(row, add_special_tokens=False).ids
        if [index for index in ids if index in self._never] != [piece for piece in pieces if isinstance(piece, int)]:
            return super().encode_pieces(pieces)  # which says what is wrong
        return ids

    @cached_property
    def _rows(self) -> Any:
        """Reads whole rows, with the hidden names of special tokens among the text."""
        return load_for_rows(self._processor, self._special)

    def decode(self, ids: Iterable[int], show_mask: str = "") -> str:
        """The text of ids; those of the vocabulary that no token has give nothing."""
        kept = []
        for index in map(int, ids):
            if not 0 <= index < self._vocab_size:
                raise ValueError(f"token id {index} is outside the vocabulary of {self._vocab_size}")
            if index == self.mask_token_id and show_mask:
                kept.append(self._shown)
            elif index not in self._never:
                kept.append(index)
        text: str = self._processor.decode(kept, skip_special_tokens=False)
        return text.replace(SHOWN, show_mask) if self._shown in kept else text

    def save(self, folder: str | Path) -> None:
        """Write the files as they were read, and, in a file of our own, what the model's files said."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = {**self._files, **self._others}
        if self._own:
            written[OWN_FILE] = (json.dumps(self._own, indent=1) + "\n").encode()
        for name, content in written.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_bytes(folder / name, content)

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask={self.mask!r}"
        return f"{type(self).__name__}({str(self.path)!r}{mask})"


def _read(path: Path) -> tuple[Path, dict[str, Any], dict[str, bytes]]:
    """What messages name, content of a ``tokenizer.json``, and the files that say it."""
    file = path / JSON_NAME if path.is_dir() else path
    if file.is_file():
        return file, read_object(file), {JSON_NAME: file.read_bytes()}
    if has_parts(path):
        return path, parts_as_json(path), read_parts(path)
    raise FileNotFoundError(f"there is no tokenizer file {file}")


def _with_roles(special: dict[str, int], roles: dict[str, int], ids: dict[str, int]) -> dict[str, int]:
    """The special tokens and those with a role; a role beyond the tokens of the file is called after itself."""
    special = dict(special)
    names = {index: name for name, index in ids.items()}
    for role, index in roles.items():
        if index not in special.values():
            special[names.get(index, f"<{role}>")] = index
    return special
