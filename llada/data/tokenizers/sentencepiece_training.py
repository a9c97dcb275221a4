"""Training SentencePiece so that no text is lost and no special token can be written by hand.

- ``normalization_rule_name=identity``, no whitespace removal, no dummy prefix and byte fallback: every character comes
  back, and ``decode(a + b) = decode(a) + decode(b)``.
- mask, bos, eos, pad and whatever else is asked for are *control symbols*: SentencePiece never matches those in text.
- A newline is a piece of its own.

Reference: Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer", arXiv 1808.06226.
"""

import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
from typing_extensions import override

from llada.data.tokenizers.sentencepiece_tokenizer import MASK, MODEL_NAME, SentencePieceTokenizer
from llada.data.tokenizers.tokenizer import TokenizerTraining
from llada.files.atomic import write_bytes

UNK_ID, PAD_ID, BOS_ID, EOS_ID, MASK_ID = range(5)
_MAX_LINE = 1000  # characters; SentencePiece leaves out lines of more than 4192 bytes


@dataclass(frozen=True)
class SentencePieceTraining(TokenizerTraining):
    """How to train a SentencePiece tokenizer; the same text gives the same tokenizer.

    Args:
        vocab_size: number of ids, with about 260 of them for the special tokens and the bytes.
        model_type: "bpe" (seconds for megabytes) or "unigram" (ten times slower to train, faster to encode).
        control_symbols: further special tokens by name, such as those of a chat template; "<|eot_id|>" becomes the end
            of a turn.
        max_characters: training reads documents up to this many characters from the start, since SentencePiece keeps
            them all in memory.

    Raises:
        ValueError: if ``model_type`` is unknown or a control symbol stands twice.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from llada.data import SentencePieceTraining
        >>> with TemporaryDirectory() as folder:
        ...     words = SentencePieceTraining(vocab_size=280).train(["to be or not to be"], folder)
        >>> words.decode(words.encode("  to bé <mask>"))  # every text comes back
        '  to bé <mask>'
        >>> words.mask_token_id in words.encode("<mask>")  # and none becomes a special token
        False
    """

    model_type: str = "bpe"
    control_symbols: tuple[str, ...] = ()
    max_characters: int = 100_000_000

    def __post_init__(self) -> None:
        if self.model_type not in ("bpe", "unigram"):
            raise ValueError(f"model_type must be 'bpe' or 'unigram'; got {self.model_type!r}")
        names = (MASK, "<pad>", "<s>", "</s>", "<unk>", *self.control_symbols)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"control symbol {twice[0]!r} stands twice; these are always there: {', '.join(names[:5])}"
            )

    @property
    def mask_token_id(self) -> int:
        """Id that ``<mask>`` will have."""
        return MASK_ID

    @override
    def train(self, texts: Iterable[str], folder: str | Path) -> SentencePieceTokenizer:
        lines = list(_lines(texts, self.max_characters))
        if not lines:
            raise ValueError("the text to train a tokenizer on is empty")
        model = io.BytesIO()
        try:
            _interruptible(lambda: self._train(iter(lines), model))
        except RuntimeError as error:
            raise ValueError(f"can't train a tokenizer with vocab_size={self.vocab_size}: {_reason(error)}") from error
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_bytes(Path(folder) / MODEL_NAME, model.getvalue())
        return SentencePieceTokenizer(folder)

    def _train(self, lines: Iterator[str], model: io.BytesIO) -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=self.model_type,
            vocab_size=self.vocab_size,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=True,
            unk_id=UNK_ID,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            control_symbols=[MASK, *self.control_symbols],
            user_defined_symbols=["\n"],
            num_threads=1,  # threads add floats in any order, and then the same text gives another tokenizer
            minloglevel=2,
        )


def _interruptible(work: Callable[[], None]) -> None:
    """Do it in a thread, so that Ctrl-C is heard: SentencePiece computes for up to minutes without looking for it."""
    failed: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=watched, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _lines(texts: Iterable[str], max_characters: int) -> Iterator[str]:
    """The lines of texts without their newlines, cut to a length that SentencePiece takes."""
    left = max_characters
    for text in texts:
        for line in text[:left].split("\n"):
            yield from (line[i : i + _MAX_LINE] for i in range(0, len(line), _MAX_LINE))
        left -= len(text)
        if left <= 0:
            return


def _reason(error: RuntimeError) -> str:
    """SentencePiece's message without the place in its source."""
    told = re.sub(r"^.*\]\s*", "", str(error)).strip() or str(error)
    few = re.search(r"smaller than required_chars\. \d+ vs (\d+)", told)
    return told if few is None else f"special tokens, bytes and the characters of the text are {few[1]}; give more"
