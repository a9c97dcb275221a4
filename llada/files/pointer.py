"""Files that stand for others: what a repository or a download leaves where the file itself hasn't come."""

from pathlib import Path

_LFS = b"version https://git-lfs"
_UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2")


def check_there(path: Path) -> None:
    """Refuse a pointer of Git LFS in the place of a file, and a file that mustn't be read; one that isn't there passes.

    Raises:
        ValueError: naming it and what to do.
        PermissionError: naming it. Libraries that read weights make it an error of another kind, like that of damage.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except PermissionError:
        raise
    except OSError:
        return
    if start == _LFS:
        raise ValueError(f"{path} is a pointer of Git LFS, and the file itself wasn't fetched: git lfs pull")


def unfinished_in(folder: Path) -> list[str]:
    """Names of what an interrupted download has left in a folder: parts of files, and links that lead nowhere."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name.endswith(_UNFINISHED) or (path.is_symlink() and not path.exists())
    )
