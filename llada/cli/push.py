"""``llada push FOLDER NAME``: a checkpoint's folder to the Hugging Face hub.

    llada convert runs/finetune/model.ckpt FINE_TUNED --files_from FOLDER
    llada push FINE_TUNED me/my-model --base_model GSAI-ML/LLaDA-8B-Instruct

The hub's own command logs in: ``hf auth login``.
"""

from collections.abc import Sequence

from llada.cli.kinds import InputFolder, Word
from llada.cli.plain import run_plain


def push(
    checkpoint: InputFolder,
    name: Word,
    public: bool = False,
    base_model: str | None = None,
    message: str | None = None,
) -> None:
    """Upload a folder, with a model card where it has none.

    Args:
        checkpoint: folder that convert has written.
        name: of the repository, such as me/my-model; it is made if it isn't there.
        public: whether a new repository can be seen by everybody.
        base_model: name on the hub of what was fine-tuned, for the card.
        message: of the commit.
    """
    from llada.checkpoints.released.hub import push_folder

    said = {} if message is None else {"message": message}
    print(push_folder(checkpoint, name, private=not public, base_model=base_model, **said))


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(push, command, arguments)
