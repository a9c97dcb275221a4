"""``--ckpt_path last``: the newest checkpoint of a run that can be read."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from llada.checkpoints.checkpoint import PARTS_KEY, read_checkpoint


def newest_readable(folders: Iterable[Path]) -> Path | None:
    """The newest whole checkpoint in some folders, by the time at which it was written.

    Args:
        folders: where a run writes its checkpoints.

    Returns:
        Its path; None if there is no checkpoint at all. A broken one that is newer is named in a warning.

    Raises:
        ValueError: if there are checkpoints, but none can be read. Beginning anew would replace them.
    """
    links = [path for folder in folders if folder.is_dir() for path in folder.glob("*.ckpt")]
    broken = [f"{path} is a link that leads nowhere" for path in links if not path.exists()]
    found = {path.resolve() for path in links if path.exists()}
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        fault = _fault(path)
        if fault is None:
            if broken:
                warnings.warn(f"going on from {path}, since {'; '.join(broken)}", stacklevel=2)
            return path
        broken.append(fault)
    if broken:
        raise ValueError(f"there is no checkpoint to go on from: {'; '.join(broken)}")
    return None


def _fault(path: Path) -> str | None:
    """Why a checkpoint can't be read; None if it can."""
    if path.is_dir():
        whole = (path / ".metadata").is_file() and (path / "meta.pt").is_file()
        return None if whole else f"{path} is a folder without the files of a distributed checkpoint"
    try:
        read_checkpoint(path)[PARTS_KEY]
    except (ValueError, OSError) as error:
        return str(error)
    return None
