"""``llada tokenizer train | show | extract``: train a tokenizer, look at one, take it out of a checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llada.checkpoints.checkpoint import read_checkpoint, write_tokenizer
from llada.cli.kinds import Checkpoint, InputFolder, OutputFolder
from llada.cli.options import run
from llada.data import SentencePieceTraining, Source, TokenizerTraining, load_tokenizer
from llada.files.visible import visible


def train(
    source: Source,
    out: OutputFolder,
    training: TokenizerTraining = SentencePieceTraining(vocab_size=4096),  # noqa: B008 - frozen
) -> None:
    """Train a tokenizer on documents and save it.

    Args:
        source: documents, such as TextFiles or JsonLines of llada.data.
        out: folder for the tokenizer.
        training: kind and size of the tokenizer.
    """
    tokenizer = training.train(source, out)
    print(f"{tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint[:16]}, in {out}")


def show(tokenizer: InputFolder, text: str = "") -> None:
    """Print what a tokenizer is, and how it cuts a text.

    Args:
        tokenizer: its folder or file.
        text: a text to encode.
    """
    loaded = load_tokenizer(tokenizer)
    print(f"{loaded.vocab_size} tokens, fingerprint {loaded.fingerprint[:16]}")
    print("special tokens: " + ", ".join(f"{visible(name)} = {i}" for name, i in loaded.special_tokens.items()))
    if text:
        ids = loaded.encode(text)
        print(f"{len(ids)} tokens: " + " ".join(f"{i}:{loaded.decode([i])!r}" for i in ids))


def extract(checkpoint: Checkpoint, out: OutputFolder) -> None:
    """Write the tokenizer of a checkpoint into a folder, for fine-tuning on other data.

    Args:
        checkpoint: file of a model.
        out: folder, which is made if it isn't there.
    """
    stored = read_checkpoint(checkpoint)
    Path(out).mkdir(parents=True, exist_ok=True)
    if not write_tokenizer(stored, out):
        raise ValueError(f"{checkpoint} holds no tokenizer: the data it was trained on had none")
    print(f"{load_tokenizer(out).vocab_size} tokens, in {out}")


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    name, *rest = arguments
    functions: dict[str, Callable[..., None]] = {"train": train, "show": show, "extract": extract}
    run(functions[name], f"{command} {name}", rest)
