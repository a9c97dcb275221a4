"""Whatever is wrong with a JSON file, the error names the place and the reason."""

from pathlib import Path

import pytest

from llada.files import json_object
from llada.files.json_object import parse_object, read_object

BROKEN = {
    "cut": (b'{"a": 1', r"x\.json: malformed JSON at column 8: "),
    "cut on a later line": (b'{"a": 1,\n "b"', r"x\.json: malformed JSON at column 5 of line 2: "),
    "empty": (b"", r"x\.json: malformed JSON at column 1: "),
    "binary": (b"\xff\xfe\x00", r"x\.json: malformed JSON: it isn't UTF-8 text"),
    "list": (b"[1]", r"x\.json: expected a JSON object .* got list"),
    "number": (b"3", r"x\.json: expected a JSON object .* got int"),
    "twice": (b'{"a": {"b": 1, "c": 2, "b": 1}}', r"x\.json: malformed JSON: 'b' is there twice"),
    "deep": (b"[" * 100_000, r"x\.json: malformed JSON: it is nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, r"x\.json: malformed JSON: it is nested too deeply"),
    "twice among many": (
        b"{" + b",".join(b'"%d":0' % (i % 60_000) for i in range(60_001)) + b"}",
        r"x\.json: malformed JSON: '0' is there twice",
    ),
    "huge number": (b'{"a": [1e999]}', r"x\.json: malformed JSON: the number 1e999 is too large"),
    "half a character": (rb'{"a": "x\udc00"}', r"x\.json: malformed JSON: \\udc00 is half a character"),
    "a second mark in front": (b"\xef\xbb\xbf\xef\xbb\xbf\xef\xbb\xbf{}", r"x\.json: malformed JSON"),
    "long number": (b'{"a": ' + b"9" * 5000 + b"}", r"x\.json: malformed JSON: "),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_object(tmp_path / "x.json")


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('\ufeff{"a": [1, {"a": "é"}]}'.encode())
    assert read_object(path) == {"a": [1, {"a": "é"}]}
    assert parse_object('\ufeff{"a": 1}', "here") == {"a": 1}
    assert parse_object(r'{"a": "\ud83d\ude00"}', "here") == {"a": "\U0001f600"}


def test_a_missing_file_counts_as_empty_only_if_it_may(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*x\.json"):
        read_object(tmp_path / "x.json")
    assert read_object(tmp_path / "x.json", missing_ok=True) == {}


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1234567890}')
    monkeypatch.setattr(json_object, "MAX_BYTES", 17)
    assert read_object(path) == {"a": 1234567890}
    monkeypatch.setattr(json_object, "MAX_BYTES", 16)
    with pytest.raises(ValueError, match=r"x\.json has 17 bytes, but JSON files of at most 16 are read"):
        read_object(path)
