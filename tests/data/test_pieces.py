"""One large file has validation data, and what can't have any is refused before the work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada.data import SentencePieceTokenizer, SentencePieceTraining, Source, TextDataModule, TextFiles, TokenFile
from llada.data.pieces import cut


@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 40))
def test_pieces_are_the_text(text: str, size: int) -> None:
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(size <= len(piece) <= 2 * size + 1 for piece in pieces[:-1])
    assert all(pieces)


def test_pieces_end_at_blank_lines_then_lines_then_spaces() -> None:
    assert list(cut("aaaa bb\nc\n\nd\neeeeeeeeeeee", 5)) == ["aaaa bb\nc\n\n", "d\neee", "eeeeeeeee"]
    assert list(cut("aaaa b cc\ndddddd", 5)) == ["aaaa b cc\n", "dddddd"]
    assert list(cut("aaa bbb ccc ddd", 4)) == ["aaa bbb ", "ccc ddd"]


@dataclass(frozen=True)
class Whole(Source):
    texts: tuple[str, ...]

    def __iter__(self) -> Any:
        return iter(self.texts)


def test_one_large_file_works_with_the_defaults(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    text = "".join(f"the boy saw boat number {n} on the river.\n" + "\n" * (n % 5 == 0) for n in range(4000))
    (tmp_path / "all.txt").write_text(text)
    data = TextDataModule(TextFiles(str(tmp_path / "all.txt")), tokenizer, 32, 4, cache_folder=str(tmp_path / "cache"))
    data.prepare_data()
    files = {part: TokenFile(data.folder / f"{part}.tokens") for part in ("train", "val")}
    share = files["val"].num_bytes / len(text)
    assert sum(file.num_bytes for file in files.values()) == len(text)
    assert 0.01 < share < 0.12
    pieces = [file.document(i).tolist() for file in files.values() for i in range(file.num_documents)]
    assert sorted(map(tokenizer.decode, pieces)) == sorted(cut(text, len(text) // 400))


def test_nothing_is_cut_where_nothing_is_held_out(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    long = Whole(("the boat and the river\n\n" * 200,))
    for settings in ({"val_fraction": 0.0}, {"val_source": long}):
        data = TextDataModule(long, tokenizer, 32, 4, cache_folder=str(tmp_path), **settings)
        data.prepare_data()
        assert TokenFile(data.folder / "train.tokens").num_documents == 1


def test_an_empty_part_is_found_before_the_work(tmp_path: Path) -> None:
    class Late(SentencePieceTraining):
        def train(self, texts: Any, folder: Path) -> Any:
            raise AssertionError("trained first")

    with pytest.raises(ValueError, match=r"no document fell to the val data.*val_source.*val_fraction=0"):
        TextDataModule(Whole(("a boat",)), Late(300), 8, 1, cache_folder=str(tmp_path)).prepare_data()
    with pytest.raises(AssertionError, match="trained first"):  # so there is a document for it now
        TextDataModule(Whole(("a boat", "the river")), Late(300), 8, 1, cache_folder=str(tmp_path)).prepare_data()
