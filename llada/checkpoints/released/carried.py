"""What lies beside the weights in a checkpoint's folder and goes along when it is converted.

Everything that isn't weights: tokenizers of any kind, chat templates, settings of generation, remote code, notes. A
link that leads out of the folder isn't followed, since what it shows could be any file of the machine; only in the
hub's cache, where all files are links into the store of their repository, these are.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from llada.checkpoints.released.folder import TOKENIZER_FILES

CONFIG = "config.json"
WEIGHTS = tuple(
    ".safetensors .bin .pt .pth .ckpt .gguf .onnx .onnx_data .h5 .msgpack .index.json".split()  # noqa: SIM905
)
LEFT_ALONE = {".git", ".cache", "__pycache__"}


class Carried(NamedTuple):
    """The files of a folder beside its weights.

    Attributes:
        files: by their names in the folder, such as "README.md" or "assets/logo.png".
        outside: names of links that lead out of it.
        weights: names of files that hold weights or pickles.
    """

    files: dict[str, Path]
    outside: list[str]
    weights: list[str]

    def without_tokenizer(self) -> "Carried":
        """The same without the files of a tokenizer, where another one takes its place."""
        kept = {name: path for name, path in self.files.items() if name.partition("/")[0] not in TOKENIZER_FILES}
        return self._replace(files=kept)


def carried(folder: Path) -> Carried:
    """Look at what lies in a checkpoint's folder.

    Args:
        folder: of a released checkpoint.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":  # the hub's cache: REPOSITORY/snapshots/COMMIT/FILE -> REPOSITORY/blobs/HASH
        root = root.parent.parent
    found = Carried({}, [], [])
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - LEFT_ALONE)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if name in links or not path.resolve().is_relative_to(root):
                found.outside.append(relative)
            elif not path.is_file():
                continue  # a socket, or a link to nothing
            elif name.endswith(WEIGHTS):
                found.weights.append(relative)
            elif relative != CONFIG:
                found.files[relative] = path
    return found


@contextmanager
def without_links_out(folder: Path) -> Iterator[Path]:
    """The folder as it looks without the links that lead out of it; those to weights and ``config.json`` stay.

    Args:
        folder: of a released checkpoint.

    Yields:
        The folder itself if there are none.
    """
    outside = carried(folder).outside
    hidden = {name for name in outside if not name.endswith(WEIGHTS) and name != CONFIG}
    if not hidden:
        yield folder
        return
    with tempfile.TemporaryDirectory() as view:
        for path in folder.iterdir():
            if path.name not in hidden:
                (Path(view) / path.name).symlink_to(path.absolute())
        yield Path(view)
