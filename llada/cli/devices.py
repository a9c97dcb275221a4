"""Where a model runs, as the command line names it."""

import torch


def usable(device: str) -> str:
    """The name of a device, if there is one.

    Args:
        device: such as "cpu", "cuda" or "cuda:1"; "auto" for whatever there is.

    Raises:
        ValueError: if it names no device, or one that can't be used on this machine.
    """
    if device == "auto":
        return device
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device {device!r} is no device; give auto, cpu, cuda or, of several, cuda:1") from error
    if chosen.type == "meta":
        raise ValueError("--device 'meta' computes nothing; give auto, cpu or cuda")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device!r} can't be used on this machine ({reason}); give auto or cpu") from error
    return device
