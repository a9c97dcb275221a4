"""What a name without a dot stands for: ``AdamW``, ``NELBO``, ``low_confidence``.

jsonargparse looks for the name among all subclasses that happen to be imported, finds no functions, and refuses a name
that two classes have. Then the meaning of ``AdamW`` would depend on whether some package has been imported that calls
its optimisers as PyTorch does. Here the public names of llada, PyTorch and Lightning come before those of others, and
presets have short names too.
"""

from typing import Any

from jsonargparse import _typehints

from llada.cli.catalogue import public_path

_among_subclasses = _typehints.resolve_class_path_by_name


def class_path(cls: Any, name: str) -> str:
    """The class path of a short name; a name that nothing has, and a class path, as it stands.

    Args:
        cls: what is asked for; several of them as a tuple.
        name: as it was written.

    Raises:
        ValueError: if several classes, all of other packages, have the name.
    """
    try:
        path = _among_subclasses(cls, name)
    except ValueError:
        if public := public_path(cls, name):
            return public
        raise
    return path if "." in path else public_path(cls, name) or path


def install() -> None:
    """Have jsonargparse ask `class_path`; it has no public place for this."""
    _typehints.resolve_class_path_by_name = class_path
