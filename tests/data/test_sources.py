import bz2
import gzip
import json
import lzma
import re
import sys

import pytest

from llada.data import JsonLines, ParquetFiles, TextFiles


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\n\n \n\nthree é\n".encode())
    (tmp_path / "b.txt").write_text("four")
    (tmp_path / "c.jsonl").write_text('{"text": "x\\ny", "n": 1}\n\n{"text": "z"}\n')
    return tmp_path


def test_a_file_is_a_document_as_it_stands(folder):
    source = TextFiles(str(folder / "*.txt"))
    assert list(source) == ["one\ntwo\n\n \n\nthree é\n", "four"]
    assert list(source) == list(source)


def test_blank_lines_part_documents(folder):
    source = TextFiles([str(folder / "b.txt"), str(folder / "a.txt")], split_on_blank_lines=True)
    assert list(source) == ["four", "one\ntwo", "three é"]


def test_json_lines_yield_a_field(folder):
    source = JsonLines(str(folder / "c.jsonl"))
    assert list(source) == ["x\ny", "z"]
    assert [where.rsplit(", ", 1)[1] for where, _ in source.records()] == ["line 1", "line 3"]


def test_the_name_of_a_file_may_look_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("odd")
    assert list(TextFiles(str(tmp_path / "a[1].txt"))) == ["odd"]


@pytest.mark.parametrize("source", [TextFiles, JsonLines])
def test_missing_and_empty_files_are_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.txt"):
        list(source(str(tmp_path / "nowhere.txt")))
    with pytest.raises(FileNotFoundError, match="no files were named"):
        list(source([]))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        list(source(str(tmp_path / "empty.txt")))


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text: .* line 1, byte 4\)"):
        list(TextFiles(str(tmp_path / "latin.txt")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', r"bad\.jsonl, line 2: malformed JSON at column 13"),
        ('["a"]', r"bad\.jsonl, line 2: expected a JSON object .* got list"),
        ('{"txt": "a"}', r"bad\.jsonl, line 2: there is no field 'text', only 'txt'"),
        ('{"text": 3}', r"bad\.jsonl, line 2: field 'text' must be text; got int"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(ValueError, match=reason):
        list(JsonLines(str(path)))


def test_the_fingerprint_follows_settings_and_files(folder):
    path = folder / "b.txt"
    before = TextFiles(str(path)).fingerprint()
    assert TextFiles(str(path)).fingerprint() == before
    assert TextFiles(str(path), split_on_blank_lines=True).fingerprint() != before
    path.write_text("changed")
    assert TextFiles(str(path)).fingerprint() != before


FORMS = {
    "plain": lambda text: text,
    "marked": lambda text: b"\xef\xbb\xbf" + text,
    "windows": lambda text: text.replace(b"\n", b"\r\n"),
    "gzip": gzip.compress,
    "gzip in two members": lambda text: gzip.compress(text[:9]) + gzip.compress(text[9:]),
    "marked gzip": lambda text: gzip.compress(b"\xef\xbb\xbf" + text),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_is_the_same_in_every_form(form, tmp_path):
    text = "a boat\nand a river\n\nthree é\n"
    (tmp_path / "a.dat").write_bytes(FORMS[form](text.encode()))
    assert list(TextFiles(str(tmp_path / "a.dat"))) == [text]
    assert list(TextFiles(str(tmp_path / "a.dat"), split_on_blank_lines=True)) == ["a boat\nand a river", "three é"]
    lines = '{"text": "a\\r\\n\u2028b"}\n\n{"text": "é"}\n'
    (tmp_path / "b.dat").write_bytes(FORMS[form](lines.encode()))
    source = JsonLines(str(tmp_path / "b.dat"))
    assert list(source) == ["a\r\n\u2028b", "é"]
    assert [where[-6:] for where, _ in source.records()] == ["line 1", "line 3"]


def test_zstandard_needs_a_package_or_reads(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(bytes.fromhex("28b52ffd0458310000616263640ae0e1b9d0"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(ImportError, match=r"a\.zst is in Zstandard.*pip install 'llada\[zstd\]'"):
        list(TextFiles(str(tmp_path / "a.zst")))


@pytest.mark.parametrize("source", [TextFiles, JsonLines])
def test_blank_files_among_others_are_skipped_and_counted(source, tmp_path, caplog):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("" if number in (0, 4) else '{"text": "x"}\n')
    assert len(list(source(str(tmp_path / "*.txt")))) == 4
    assert re.search(r"skipped 2 of 6 files, which are empty, such as .*0\.txt", caplog.text)


@pytest.mark.parametrize(("indent", "program"), [(None, ".[]"), (1, ".[]"), (2, ".")])
def test_one_document_is_no_json_lines(indent, program, tmp_path):
    records = [{"text": "a"}, {"text": "b"}]
    text = json.dumps(records, indent=indent) if program == ".[]" else json.dumps(records[0], indent=indent)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json, line 1: .*one JSON document; .* jq -c '{re.escape(program)}' "):
        list(JsonLines(str(tmp_path / "a.json")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"a boat\n" * 99)[:-9], r"a\.txt is truncated or damaged behind line \d+"),
        (b"PAR1....", "read it by the source llada.data.ParquetFiles"),
        ("a boat".encode("utf-16"), "is not UTF-8 text: it is in UTF-16"),
        (b"one\ntwo\ncaf\xe9\n", r"line 3, byte 4\); convert it to UTF-8"),
        ("a boat".encode("utf-16-le"), "it holds many zero bytes, as UTF-16 does; convert it to UTF-8"),
        (gzip.compress(gzip.compress(b"a boat")), "it is compressed by gzip twice; unpack it"),
        (bz2.compress(b"a boat"), "it is compressed by bzip2; unpack it"),
        (lzma.compress(b"a boat"), "it is compressed by xz; unpack it"),
        (b"PK\x03\x04" + bytes(40), "it is a ZIP archive; unpack it"),
    ],
    ids=["cut gzip", "parquet", "utf-16", "latin-1", "utf-16 without mark", "gzip twice", "bzip2", "xz", "zip"],
)
def test_what_is_no_text_is_named_with_its_place(content, reason, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        list(TextFiles(str(tmp_path / "a.txt")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (r'{"text": "half \ud83d"}', r"line 2: malformed JSON: \\ud83d is half a character"),
        ('{"text": "a", "text": "b"}', "line 2: malformed JSON: 'text' is there twice"),
    ],
)
def test_a_line_that_would_be_read_in_two_ways_is_refused(line, reason, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(ValueError, match=reason):
        list(JsonLines(str(tmp_path / "a.jsonl")))


def test_parquet_files(tmp_path, monkeypatch):
    from pyarrow import Table, parquet

    for number in range(2):
        table = Table.from_pylist([{"text": f"boat {number}{row}", "n": row} for row in range(3)])
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    source = ParquetFiles(str(tmp_path / "*.parquet"))
    assert list(source) == ["boat 00", "boat 01", "boat 02", "boat 10", "boat 11", "boat 12"]
    assert [record["n"] for _, record in source.records()] == [0, 1, 2] * 2
    with pytest.raises(ValueError, match=r"0\.parquet, record 1: field 'n' must be text; got int"):
        list(ParquetFiles(str(tmp_path / "*.parquet"), field="n"))
    before = source.fingerprint()
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    assert source.fingerprint() != before
    with pytest.raises(ValueError, match=r"0\.parquet can't be read as Parquet"):
        list(source)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'llada\[hf\]'"):
        list(source)
