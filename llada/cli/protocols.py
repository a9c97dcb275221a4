"""What ``llada evaluate`` answers without a model, and so without torch: which protocols there are."""

from collections.abc import Sequence

from llada.cli.boundary import Misunderstood
from llada.cli.nearest import no_such
from llada.evaluation.protocols import PROTOCOLS, Protocol

LIST = "list"
"""In the place of a protocol's name: show them all."""


def answered(given: Sequence[tuple[str, str | None]]) -> bool:
    """Look at a command line, whose words have been looked at one by one.

    Args:
        given: (option, value) of each option that is given.

    Returns:
        Whether that was all there is to do.

    Raises:
        Misunderstood: if there is no such protocol, or nothing says what is to be evaluated.
        ValueError: if the protocol runs a model's programs, and nobody allowed that.
    """
    values = dict(given)
    if any(name.partition(".")[0] in ("config", "print_config") or "help" in name for name in values):
        return False  # more is said elsewhere
    name = values.get("protocol")
    if name == LIST:
        print(listing())
        return True
    check(protocol(name), "tasks" in values or "tasks+" in values, "checkpoint" in values, "allow_code" in values)
    return False


def protocol(name: str | None) -> Protocol | None:
    """A protocol by its name.

    Raises:
        Misunderstood: if there is none.
    """
    if name is None:
        return None
    if name not in PROTOCOLS:
        raise Misunderstood(f"{no_such('protocol', name, PROTOCOLS)}")
    return PROTOCOLS[name]


def check(chosen: Protocol | None, tasks: bool, checkpoint: bool, allow_code: bool) -> None:
    """Whether it is clear what is evaluated, and allowed.

    Args:
        chosen: the protocol, if there is one.
        tasks: whether tasks are named.
        checkpoint: whether a checkpoint is.
        allow_code: whether a model's programs may run.

    Raises:
        Misunderstood: if it isn't clear.
        ValueError: if it isn't allowed.
    """
    if chosen is None and not (tasks and checkpoint):
        raise Misunderstood("give a checkpoint and --tasks, or a --protocol (--protocol list shows them)")
    if chosen is not None and chosen.runs_code and not allow_code:
        raise ValueError(f"the task {chosen.task} runs programs that the model writes; allow that with --allow_code")


def listing() -> str:
    """The protocols, one per line."""
    width = max(map(len, PROTOCOLS))
    return "\n".join(
        f"{name:<{width}}  {entry.score:5.1f} %  {entry.task}" + ("" if entry.same_harness else " (by another toolkit)")
        for name, entry in PROTOCOLS.items()
    )
