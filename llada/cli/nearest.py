"""A name that doesn't exist: the one that was probably meant, and those that there are."""

from collections.abc import Iterable
from difflib import get_close_matches


def no_such(what: str, name: str, names: Iterable[str], where: str = "") -> str:
    """A sentence about a misspelt name.

    Args:
        what: the kind of thing, such as "option".
        name: as it was written.
        names: those that exist.
        where: which has them, such as "of the command sample"; empty if that is plain.

    Returns:
        Such as "there is no preset 'low_confidnce'; did you mean low_confidence? There are ...".
    """
    known = list(dict.fromkeys(names))
    close = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), close, n=1, cutoff=0.6)
    meant = f"; did you mean {close[found[0]]}?" if found else ";"
    place = f" {where}" if where else ""
    listed = f" There are {', '.join(known)}" if found else f" there are {', '.join(known)}"
    return f"there is no {what} {name!r}{place}{meant}{listed if known else ''}".removesuffix(";")
