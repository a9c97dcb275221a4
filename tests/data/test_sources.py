import pytest

from llada.data import JsonLines, TextFiles


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\n\n \n\nthree é\n".encode())
    (tmp_path / "b.txt").write_text("four")
    (tmp_path / "c.jsonl").write_text('{"text": "x\\ny", "n": 1}\n\n{"text": "z"}\n')
    return tmp_path


def test_a_file_is_a_document_as_it_stands(folder):
    source = TextFiles(str(folder / "*.txt"))
    assert list(source) == ["one\r\ntwo\n\n \n\nthree é\n", "four"]
    assert list(source) == list(source)


def test_blank_lines_part_documents(folder):
    source = TextFiles([str(folder / "b.txt"), str(folder / "a.txt")], split_on_blank_lines=True)
    assert list(source) == ["four", "one\r\ntwo", "three é"]


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
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text"):
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
