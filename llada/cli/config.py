"""``llada config [NAME]``: the configurations that come with the library.

    llada config
    llada config demo > mine.yaml

They are the files of ``examples/configs``, which a wheel carries as package data.
"""

from collections.abc import Sequence
from pathlib import Path

from llada.cli.boundary import Misunderstood
from llada.cli.kinds import Word
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain

_PACKAGE = Path(__file__).parents[1]
_OF_EXAMPLES = "class_path: examples."


def config(name: Word | None = None) -> None:
    """Print a configuration, to be changed and given to fit --config; without a name: list all.

    Args:
        name: such as demo or scaling/fsdp.
    """
    known = configurations()
    if name is None:
        width = max(map(len, known))
        print("\n".join(f"{each:<{width}}  {_first_line(path)}" for each, path in known.items()))
        print("\nllada config NAME > mine.yaml writes one; llada fit --config mine.yaml trains with it")
        return
    if name not in known:
        raise Misunderstood(no_such("configuration", name, known))
    print(known[name].read_text(encoding="utf-8"), end="")


def configurations() -> dict[str, Path]:
    """Name -> file of every configuration whose parts are all in the library or its dependencies."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "examples" / "configs"
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in files
        if _OF_EXAMPLES not in path.read_text(encoding="utf-8")
    }


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(config, command, arguments)
