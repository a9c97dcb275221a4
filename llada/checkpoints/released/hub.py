"""A checkpoint's folder from and to the Hugging Face hub (extra ``hf``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llada.files.json_object import read_object

CARD = "README.md"


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The files of a repository, in the hub's cache.

    Args:
        name: of the repository.
        revision: branch, tag or commit; None for the main branch.
        patterns: of the files that are wanted.

    Raises:
        ImportError: without ``huggingface_hub``.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns]))


def push_folder(
    folder: str | Path,
    name: str,
    *,
    private: bool = True,
    base_model: str | None = None,
    message: str = "Upload a masked diffusion language model",
) -> str:
    """Upload a folder that `save_pretrained` or ``llada convert`` has written.

    The repository is made if it isn't there. The card in the folder is kept; where there is none, the repository gets
    the one of `model_card`. Weights of another format and pickles stay here.

    Args:
        folder: with ``config.json`` and safetensors.
        name: of the repository, such as "me/my-model".
        private: whether a new repository can be seen by its owner alone.
        base_model: name on the hub of what was fine-tuned, for the card.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: if the folder holds no checkpoint.
        ValueError: if the name isn't one of the hub.
        ImportError: without ``huggingface_hub``.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} holds no config.json with safetensors; write the folder first: llada convert CHECKPOINT {folder}"
        )
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"a name on the hub is OWNER/MODEL, such as me/my-model; got {name!r}")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError("uploading to the hub needs its package: pip install llada[hf]") from error
    api = HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    if not (folder / CARD).exists():
        card = model_card(folder, name, base_model).encode()
        api.upload_file(path_or_fileobj=card, path_in_repo=CARD, repo_id=name, commit_message="Add a model card")
    left = ["*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", ".*"]
    return str(api.upload_folder(folder_path=folder, repo_id=name, commit_message=message, ignore_patterns=left))


def model_card(folder: str | Path, name: str, base_model: str | None = None) -> str:
    """What a model is and how it is run, in Markdown with the hub's front matter.

    It says what the files say. Data, quality and licence it can't know, and says that they are missing.

    Args:
        folder: with ``config.json``.
        name: of the repository.
        base_model: name on the hub of what was fine-tuned.
    """
    config = read_object(Path(folder) / "config.json")
    front: dict[str, Any] = {"library_name": "llada", "pipeline_tag": "text-generation"}
    front["tags"] = ["llada", "diffusion-language-model", str(config.get("model_type", "masked-diffusion"))]
    front |= {} if base_model is None else {"base_model": base_model}
    of = "" if base_model is None else f", fine-tuned from [{base_model}](https://huggingface.co/{base_model})"
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {name.rpartition("/")[2]}

A masked diffusion language model of the family `{config.get("model_type", "unknown")}`{of}.

```bash
pip install "llada[hf]"
llada chat {name}
llada sample {name} --prompt "..."
```

```python
from llada import DiffusionLM

model = DiffusionLM.from_pretrained("{name}")
```

What it was trained on, what it is good for, and its licence: to be written by its owner.
"""
