"""``llada tokenizer``: train a tokenizer, or look at one."""

from collections.abc import Sequence

from jsonargparse import auto_cli

from llada.data import SentencePieceTraining, Source, TokenizerTraining, load_tokenizer


def train(
    source: Source,
    out: str,
    training: TokenizerTraining = SentencePieceTraining(vocab_size=4096),  # noqa: B008 - frozen
) -> None:
    """Train a tokenizer on documents and save it.

    Args:
        source: documents, such as llada.data.TextFiles or llada.data.JsonLines.
        out: folder for the tokenizer.
        training: kind and size of the tokenizer.
    """
    tokenizer = training.train(source, out)
    print(f"{tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint[:16]}, in {out}")


def show(tokenizer: str, text: str = "") -> None:
    """Print what a tokenizer is, and how it cuts a text.

    Args:
        tokenizer: its folder or file.
        text: a text to encode.
    """
    loaded = load_tokenizer(tokenizer)
    print(f"{loaded.vocab_size} tokens, fingerprint {loaded.fingerprint[:16]}")
    print("special tokens: " + ", ".join(f"{name} = {i}" for name, i in loaded.special_tokens.items()))
    if text:
        ids = loaded.encode(text)
        print(f"{len(ids)} tokens: " + " ".join(f"{i}:{loaded.decode([i])!r}" for i in ids))


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    auto_cli([train, show], args=list(arguments), prog=f"llada {command}")
