"""What to say of weights that don't fit: PyTorch names every tensor, which may be thousands."""

import re


def in_short(error: RuntimeError) -> str:
    """PyTorch's account of a state that doesn't fit, in two lines: how many weights of each kind, and the first.

    Args:
        error: what ``load_state_dict`` raised.
    """
    told = []
    for kind, pattern in (
        ("missing", r"Missing key\(s\) in state_dict: (.*)"),
        ("unknown", r"Unexpected key\(s\) in state_dict: (.*)"),
    ):
        names = [name for found in re.findall(pattern, str(error)) for name in re.findall(r'"([^"]+)"', found)]
        if names:
            told.append(f"{len(names)} {kind}, the first {names[0]}")
    shaped = re.findall(r"size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])", str(error))
    if shaped:
        name, stored, asked = shaped[0]
        told.append(f"{len(shaped)} of another shape, the first {name}: {stored} instead of {asked}")
    return f"the checkpoint holds the weights of another model: {'; '.join(told) or error}"
