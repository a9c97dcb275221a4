"""Whatever goes wrong in a command becomes one line and a status that says whose fault it is."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llada
from llada import cli
from llada.cli.boundary import guarded, reason_of
from llada.cli.devices import usable
from tests.cli.conftest import Command
from tests.cli.trainer_file import write_trainer_file
from tests.tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return str(write_trainer_file(folder, folder / "model.ckpt"))


@pytest.fixture(name="run_command")
def _run_command(llada: Command) -> Command:
    return llada


class MisconfigurationException(Exception):
    """As Lightning's, which is told by its name."""


def fails(error: BaseException) -> None:
    raise error


def line_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = guarded("sample", lambda: fails(error))
    out, err = capsys.readouterr()
    assert out == ""
    return status, err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a.ckpt"), "runs/a.ckpt: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file can't be read or written: no space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: read-only file system"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300), "n" * 197 + "...: file name too long"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "folder"), "folder: is a directory"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: not a directory"),
        (PermissionError(errno.EACCES, "Permission denied", b"secret"), "secret: permission denied"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: invalid cross-device link"),
        (FileNotFoundError("there is no file a"), "there is no file a"),
        (ValueError("a must be 1"), "a must be 1"),
        (ImportError("needs the package rich"), "needs the package rich"),
        (MisconfigurationException("no validation data"), "no validation data"),
        (MemoryError(), "out of memory (MemoryError); ask for fewer or shorter rows"),
        (
            RuntimeError("CUDA out of memory. Tried\nmore"),
            "out of memory (CUDA out of memory. Tried); ask for fewer or shorter rows",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "a file can't be read or written: broken pipe"),  # of a worker
        (
            RuntimeError("Error(s) in loading state_dict for Net: size"),
            "the checkpoint holds the weights of another model: Error(s) in loading state_dict for Net: size",
        ),
        (
            RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"),
            "a file can't be written ([enforce fail] PytorchStreamWriter failed writing file); is the disk full?",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_user_can_mend(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(error, capsys) == (1, f"llada sample: {line}\n")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("weights"),
        TypeError("no"),
        RecursionError("deep"),
        AssertionError(),
        ValueError(),
        ZeroDivisionError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_says_so_and_where_its_traceback_is(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, line = line_of(error, capsys)
    assert status == 70
    assert line.startswith(f"llada sample: this is a bug of llada, or of a part of your own: {type(error).__name__}")
    (written,) = tmp_path.iterdir()
    assert f"the traceback is in {written} (" in line
    text = written.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "in fails" in text


def test_a_bug_on_a_full_disk_shows_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: fails(OSError(errno.ENOSPC, "full")))
    status, line = line_of(KeyError("weights"), capsys)
    assert status == 70
    assert "in fails" in line


def test_interrupts_and_what_a_line_may_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(KeyboardInterrupt(), capsys) == (130, "llada sample: interrupted\n")
    assert line_of(ValueError("a \x1b[2J b"), capsys) == (1, "llada sample: a \\x1b[2J b\n")
    short = f"no {'a' * 100}... (3000 characters) here"
    assert line_of(ValueError(f"no {'a' * 3000} here"), capsys) == (1, f"llada sample: {short}\n")
    assert line_of(ValueError("a " * 3000), capsys)[1].count("a ") > 3000  # words of ours stay
    assert reason_of(KeyError("a")) is None


def test_a_closed_pipe_is_silent() -> None:
    program = "import sys; from llada.cli.boundary import guarded; sys.exit(guarded('x', lambda: print('a' * 10**6)))"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize("switch", ["option", "environment"])
def test_a_traceback_is_shown_on_demand(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if switch == "environment":
        monkeypatch.setenv("LLADA_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint nowhere"):
        cli.main([*(["--debug"] if switch == "option" else []), "score", "nowhere.ckpt", "--prompt=a", "--answer=b"])


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "--device 'gpu' is no device; give auto, cpu"),
        ("", "--device '' is no device"),
        ("cpu:-3", "is no device"),
        ("cuda:99", r"--device 'cuda:99' can't be used on this machine \("),
        ("meta", "computes nothing"),
    ],
)
def test_a_device_that_is_none(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        usable(device)
    assert usable("auto") == "auto"
    assert usable("cpu") == "cpu"


def test_commands_name_the_file_and_the_reason(run_command: Command, checkpoint: str, tmp_path: Path) -> None:
    sample = ["sample", checkpoint, "--num_new_tokens", "2"]
    (tmp_path / "folder").mkdir()
    for arguments, reason in (
        ([*sample, "--device", "gpu"], "--device 'gpu' is no device"),
        ([*sample, "--page", "nowhere/a.html"], "there is no folder nowhere for a.html"),
        ([*sample, "--page", "n" * 300], "file name too long"),
        (["sample", "n" * 300], "file name too long"),
        (["generate", checkpoint, "folder", "out.jsonl"], "folder"),
        (["score", checkpoint, "--text", "folder", "--max_length", "4"], "folder"),
    ):
        run = run_command(*arguments)
        assert (run.code, run.out) == (1, ""), arguments
        assert re.search(reason, run.err), run.err
        assert run.err.count("\n") == 1, run.err
        assert "[Errno" not in run.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--num_new_tokens", "100000000"], r"--num_new_tokens asks for 100000000 tokens.*max_length=192"),
        (["sample", "--infill", "[MASK:1000000000]"], r"--infill asks for 1000000000 tokens.*max_length=192"),
        (["sample", "--infill", "[MASK:100] a [MASK:100]"], r"--infill asks for 200 tokens"),
        (["sample", "--infill", f"[MASK:{'9' * 5000}]"], r"a gap of 9{18}\.\.\. tokens can't be filled"),
        (
            ["sample", "--num_samples", "100000000", "--num_new_tokens", "4"],
            r"for each of 1 prompts make 400000000, more than max_tokens=16777216.*--max_tokens 400000000",
        ),
        (
            ["sample", "--num_samples", "3", "--num_new_tokens", "4", "--max_tokens", "11"],
            "make 12, more than max_tokens=11",
        ),
        (["generate", "q.jsonl", "a.jsonl", "--num_new_tokens", "100000000"], r"--num_new_tokens asks for 100000000"),
        (
            ["chat", "--template", "llada.data.plain_template", "--num_new_tokens", "100000000"],
            "make 100000000, more than",
        ),
        (["score", "--text", "text.txt", "--max_length", "8", "--draws", "100000000"], r"more than max_rows=16777216"),
        (["sample", "--regex", r"\w{0,200}\d{0,200}"], r"needs more than 1024 states.*--regex_max_states"),
        (["sample", "--regex", "a{1,90}", "--regex_max_states", "80"], "needs more than 80 states"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_absurd_numbers_are_refused_before_memory_is_taken(
    run_command: Command, checkpoint: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "boat"}\n', encoding="utf-8")
    (tmp_path / "text.txt").write_text("boat 7 is on the river\n", encoding="utf-8")
    run = run_command(arguments[0], checkpoint, *arguments[1:])
    assert run.code == 1, run.err
    assert re.search(message, run.err), run.err


def test_files_that_are_there_stay(run_command: Command, checkpoint: str, tmp_path: Path) -> None:
    options = ["sample", checkpoint, "--num_new_tokens", "2"]
    for option, name in (("--page", "a.html"), ("--picture", "a.svg")):
        (tmp_path / name).write_text("mine", encoding="utf-8")
        run = run_command(*options, option, name)
        assert (run.code, run.out) == (1, "")
        assert f"{name} is there already; name a file that isn't, or say --overwrite" in run.err
        assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
        assert run_command(*options, option, name, "--overwrite").code == 0
        assert (tmp_path / name).read_text(encoding="utf-8") != "mine"
    (tmp_path / "link.html").symlink_to(tmp_path / "not yet")
    assert run_command(*options, "--page", "link.html").code == 1


def test_a_module_and_a_command_are_the_same() -> None:
    run = subprocess.run([sys.executable, "-m", "llada", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"llada {llada.__version__}\n")
    assert subprocess.run([sys.executable, "-m", "llada", "fti"], capture_output=True).returncode == 2
