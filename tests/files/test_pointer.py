"""What stands in the place of a file that hasn't come is told apart from a damaged one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llada.checkpoints.checkpoint import read_checkpoint
from llada.checkpoints.released.shards import stored_in, stored_tensors
from llada.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from llada.files.json_object import read_object

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("read", [read_checkpoint, stored_in, read_object, SentencePieceTokenizer])
def test_a_pointer_of_git_lfs_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_text(POINTER)
    with pytest.raises(ValueError, match=r"tokenizer\.model is a pointer of Git LFS, .*: git lfs pull"):
        read(path)


@pytest.mark.parametrize("name", ["model.safetensors.incomplete", "x.part", "link"])
def test_what_a_download_has_left_is_named(name: str, tmp_path: Path) -> None:
    if name == "link":
        (tmp_path / name).symlink_to(tmp_path / "gone")
    else:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=f"neither .*; {name} is left of a download that was interrupted"):
        stored_tensors(tmp_path)
