"""Which classes a checkpoint may name: those that are there already, and never by importing what the file names.

Importing a module runs it, and a folder that somebody else made may hold a module beside its checkpoint. So a name is
looked up among the modules that have been imported by now; only modules of this library, and of packages that the user
trusts by name, are imported for it, and nothing from the working directory but what is installed to be edited there.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from llada.files.json_object import parse_object

_TRUSTED: set[str] = set()


def trust(*packages: str) -> None:
    """Let checkpoints name classes of installed packages, which are imported for them; ``--trust`` of the commands.

    Args:
        packages: top-level names, such as ``my_models``.

    Raises:
        ValueError: if one isn't the name of a package.
    """
    for package in packages:
        if not package.isidentifier():
            raise ValueError(f"--trust takes the name of a package, such as my_models; got {package!r}")
    _TRUSTED.update(packages)


@contextmanager
def trusting(*packages: str) -> Iterator[None]:
    """As `trust`, for as long as a context lasts."""
    before = set(_TRUSTED)
    trust(*packages)
    try:
        yield
    finally:
        _TRUSTED.clear()
        _TRUSTED.update(before)


def is_trusted(cls: type) -> bool:
    """Whether a class is of this library or of a package that the user trusts by name."""
    return cls.__module__.partition(".")[0] in {"llada", *_TRUSTED}


def known_class(path: Any) -> type | None:
    """The class of a name, without importing anything that isn't trusted; None if it isn't known.

    Args:
        path: name as `llada.checkpoints.describe.public_path` returns it, from a file that anybody may have written.
    """
    if not isinstance(path, str) or len(path) > 1000:
        return None
    names = path.split(".")
    if len(names) < 2 or not all(name.isidentifier() or name == "<locals>" for name in names):
        return None
    if names[0] in {"llada", *_TRUSTED}:
        _import_trusted(names)
    for depth in range(len(names) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(names[:depth]))
        for name in names[depth:]:
            found = None if found is None or name.startswith("__") else _attribute(found, name)
        if isinstance(found, type):
            return found
    return None


def unknown(path: Any) -> str:
    """What to say of a class that isn't known."""
    shown = repr(path) if not isinstance(path, str) or len(path) > 200 else path
    if isinstance(path, str) and "<locals>" in path:
        return f"the class {shown} was defined within a function, so nobody can find it by its name; pass the part"
    package, _, name = shown.rpartition(".")
    return (
        f"the class {shown} isn't known; import it first (from {package} import {name}), name its package where it "
        f"is installed and you trust it (--trust {shown.partition('.')[0]}), or pass the part. Loading a file imports "
        "nothing on its own, since that would run code"
    )


def _attribute(owner: Any, name: str) -> Any:
    """An attribute that is there; lazy modules make theirs only for names that they list themselves."""
    if isinstance(owner, type):
        return vars(owner).get(name)
    if name in vars(owner):
        return vars(owner)[name]
    lazy = hasattr(owner, "__getattr__") and name in getattr(owner, "__all__", ())
    return getattr(owner, name, None) if lazy else None


def _import_trusted(names: list[str]) -> None:
    """Import the modules of a trusted package on the way to a name; what isn't a module is left to the look-up."""
    if names[0] not in sys.modules:
        _refuse_from_here(names[0])
    for depth in range(1, len(names)):
        module = ".".join(names[:depth])
        if module in sys.modules:
            continue
        parent = sys.modules.get(module.rpartition(".")[0])
        if names[depth - 1].startswith("__") or (parent is not None and not hasattr(parent, "__path__")):
            return
        if importlib.util.find_spec(module) is None:
            return
        importlib.import_module(module)


def _refuse_from_here(package: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ValueError(f"there is no package {package} to trust; install it")
    places = [spec.origin, *(spec.submodule_search_locations or [])]
    here, installed = Path.cwd(), Path(sys.prefix)
    for place in (Path(os.path.abspath(found)) for found in places if found and found not in ("built-in", "frozen")):
        if place.is_relative_to(here) and not place.is_relative_to(installed) and not _is_editable(place):
            raise ValueError(
                f"{package} lies in the working directory ({place}), where it may have come with the checkpoint; "
                "nothing is imported from there. Install it, run the command elsewhere, or import it in Python"
            )


def _is_editable(place: Path) -> bool:
    """Whether a file belongs to a project that the user has installed to be edited (``pip install -e``).

    The word for it must stand in the environment: metadata that lie in the working directory themselves say nothing.
    """
    for distribution in importlib.metadata.distributions(path=site.getsitepackages()):
        written = distribution.read_text("direct_url.json")
        try:
            said = parse_object(written or "{}", "direct_url.json")
            editable = said.get("dir_info", {}).get("editable", False)
            root = Path(url2pathname(urlparse(said.get("url", "")).path))
        except (ValueError, AttributeError):
            continue
        if editable and place.is_relative_to(root):
            return True
    return False
