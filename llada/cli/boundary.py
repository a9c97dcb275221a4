"""The one place where a command's errors become a line and an exit status.

| status | meaning |
|---|---|
| 0 | done |
| 1 | the command failed on its input, on a file or on the machine; the line says what to change |
| 2 | the command line isn't understood |
| 70 | a bug of llada, or of a part of the user's own; its traceback is in the file that the line names |
| 130 | interrupted (Ctrl-C) |
| 141 | whoever read the output has gone, as `head` does |

`llada --debug COMMAND`, or LLADA_DEBUG=1, lets the traceback through. Nothing here needs torch.
"""

import os
import re
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from llada.files.naming import with_inputs
from llada.files.visible import visible

FAILED, MISUNDERSTOOD, BUG, INTERRUPTED, PIPE_CLOSED = 1, 2, 70, 130, 141

_REFUSALS = ("MisconfigurationException",)  # by name, since their modules are slow to import
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
_TWICE = "Found more than one stateful callback"  # of Lightning, a RuntimeError
_NOT_WRITTEN = "SafetensorError"
_LINKS = "Symlink loop"
_DISK_FULL = "PytorchStreamWriter failed"


class Misunderstood(Exception):
    """The command line isn't understood; the text is the one sentence that says why."""


def guarded(command: str, run: Callable[[], None], words: Sequence[str] = ()) -> int:
    """Run a command, and say in a line what went wrong, and with which files if the error doesn't say so itself.

    Args:
        command: its name, which the line begins with.
        run: the command.
        words: of the command line behind its name.

    Returns:
        The exit status.
    """
    try:
        run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _say(command, "interrupted", INTERRUPTED)
    except Misunderstood as error:
        return _say(command, with_inputs(str(error), words), MISUNDERSTOOD)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # The interpreter flushes once more at its end, and would complain there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        reason = reason_of(error)
        if reason is None:
            return _say(command, _bug(error), BUG)
        return _say(command, with_inputs(reason, words), FAILED)
    return 0


def _nobody_reads() -> bool:
    """Whether it is the standard output whose other end is closed, and not a pipe to a worker."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # it has been replaced by something that is no file
        return False
    watch = select.poll()
    watch.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0))


def reason_of(error: Exception) -> str | None:
    """What a user can do something about, in words; None if it is a bug.

    Args:
        error: what a command raised.
    """
    if isinstance(error, OSError):
        return _of_file(error)
    if isinstance(error, RecursionError):
        return None
    if isinstance(error, ValueError | ImportError) or type(error).__name__ in _REFUSALS:
        return str(_told(error)) or None
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return f"out of memory ({text.partition(chr(10))[0] or type(error).__name__}); ask for fewer or shorter rows"
    if "Error(s) in loading state_dict" in text:
        return f"the checkpoint holds the weights of another model: {text}"
    if text.startswith(_LINKS):  # of pathlib before Python 3.13
        return text
    if text.startswith(_TWICE):
        return (
            f"{text.partition('.')[0]}; two of a kind must differ in what they monitor or when they save, since each "
            "keeps its state under that"
        )
    if type(error).__name__ == _NOT_WRITTEN and "I/O error" in text:
        return f"a file can't be written ({text}); is the disk full?"
    if _DISK_FULL in text:
        return f"a file can't be written ({text.partition(chr(10))[0]}); is the disk full?"
    return None


def _of_file(error: OSError) -> str:
    """Which file, and why."""
    if error.errno is None:
        return str(error)
    reason = (error.strerror or os.strerror(error.errno)).lower()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    named = " -> ".join(name if len(name) <= 200 else f"{name[:197]}..." for name in names)
    return f"{named}: {reason}" if named else f"a file can't be read or written: {reason}"


def _told(error: BaseException) -> BaseException:
    """What a part said when it refused its arguments, without jsonargparse's account of whom it asked."""
    while str(error).startswith("Does not validate against any of the Union subtypes") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _bug(error: Exception) -> str:
    """The line about an error that nobody has foreseen, whose traceback goes into a file."""
    lines = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="llada-bug-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.version}\n{sys.argv}\n\n{lines}")
        where = f"the traceback is in {path}"
    except OSError:
        where = f"the traceback can't be written to a file:\n{lines}"
    first_line = str(error).partition("\n")[0]
    what = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return f"this is a bug of llada, or of a part of your own: {what}; {where} (llada --debug shows it at once)"


def _say(command: str, text: str, status: int) -> int:
    text = re.sub(r"\S{400,}", lambda word: f"{word[0][:100]}... ({len(word[0])} characters)", text)
    print(f"llada {command}: {visible(text)}", file=sys.stderr)
    return status
