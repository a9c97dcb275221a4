"""What ``llada score`` refuses without a model, and so without torch: options that don't belong together."""

from collections.abc import Collection, Sequence


def answered(given: Sequence[tuple[str, str | None]]) -> bool:
    """Look at a command line, whose words have been looked at one by one.

    Args:
        given: (option, value) of each option that is given.

    Returns:
        False: a model is needed.

    Raises:
        ValueError: as `check`.
    """
    names = {name.partition(".")[0].removesuffix("+") for name, value in given if value != "null"}
    if not names & {"config", "print_config", "help"}:  # where more is said
        check(names)
    return False


def check(given: Collection[str]) -> None:
    """Whether it is clear what is scored.

    Args:
        given: names of the options that are given.

    Raises:
        ValueError: if it isn't.
    """
    if ("prompt" in given or "answer" in given) + ("pairs" in given) + ("text" in given) != 1:
        raise ValueError("give one of: --prompt with --answer, --pairs FILE.jsonl, or --text FILE")
    if ("prompt" in given) != ("answer" in given):
        raise ValueError("--prompt and --answer belong together; an empty prompt is --prompt ''")
    if "text" in given and "max_length" not in given:
        raise ValueError("--text needs --max_length, the number of tokens in a row; take that of the training")
