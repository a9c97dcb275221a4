"""Where a checkpoint's folder is: here, or on the Hugging Face hub."""

from pathlib import Path

from llada.checkpoints.released.hub import download

DATA = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
CARRIED = ("*.py", "*.md", "*.yaml", "*.yml", "LICENSE*", "NOTICE*")
"""Patterns of files on the hub: what is read, and what is only carried along."""


def find_folder(folder_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is a name on the hub.

    Weights come as safetensors alone, never as pickles. Remote code and notes are downloaded as files that
    ``llada convert`` carries along; nothing here runs or imports them.

    Raises:
        FileNotFoundError: if there is no such folder, and no such name on the hub or no way to it.
        ImportError: if it is a hub name and ``huggingface_hub`` isn't installed.
    """
    path = Path(folder_or_hub_id)
    if path.is_dir():
        return path
    if path.exists() or len(path.parts) != 2 or path.is_absolute():
        raise FileNotFoundError(f"there is no folder {path}, and it isn't a hub name such as GSAI-ML/LLaDA-8B-Base")
    try:
        return download(str(folder_or_hub_id), revision, [*DATA, *CARRIED])
    except ImportError as error:
        raise ImportError(f"there is no folder {path}; to download it from the hub: pip install llada[hf]") from error
    except (OSError, ValueError) as error:  # the hub's own errors are among these
        raise FileNotFoundError(f"there is no folder {path} here, and the hub didn't give it: {error}") from error
