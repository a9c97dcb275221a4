"""What stands in the place of a file that hasn't come is told apart from a damaged one."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.released.pickled import read_inert
from llada.checkpoints.released.shards import stored_in, stored_tensors
from llada.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from llada.files.json_object import read_object

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


READERS = [read_checkpoint, read_inert, stored_in, read_object, SentencePieceTokenizer]


@pytest.mark.parametrize("read", READERS)
def test_a_pointer_of_git_lfs_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_text(POINTER)
    with pytest.raises(ValueError, match=r"tokenizer\.model is a pointer of Git LFS, .*: git lfs pull"):
        read(path)


@pytest.mark.parametrize("read", [read_checkpoint, read_inert, stored_in])
def test_a_file_that_mustnt_be_read_isnt_called_damaged(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by no one, as for a user without the right; the tests may be run by one who has it."""
    path = tmp_path / "tokenizer.model"
    path.write_text("{}")

    def closed(self: Path, *_: object, **__: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(PermissionError) as error:
        read(path)
    assert error.value.filename == str(path)


@pytest.mark.parametrize("name", ["model.safetensors.incomplete", "x.part", "link"])
def test_what_a_download_has_left_is_named(name: str, tmp_path: Path) -> None:
    if name == "link":
        (tmp_path / name).symlink_to(tmp_path / "gone")
    else:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=f"neither .*; {name} is left of a download that was interrupted"):
        stored_tensors(tmp_path)
