import json
import os
import pickle
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada.data import TokenFile, TokenFileWriter, TokenRows
from llada.data.token_file import HEADER_BYTES


def write(path, documents, vocab_size=1000, fingerprint="f" * 64):
    with TokenFileWriter(path, vocab_size, fingerprint) as writer:
        for document in documents:
            writer.add(document, num_bytes=3 * len(document))
    return TokenFile(path)


@given(
    documents=st.lists(st.lists(st.integers(0, 999), max_size=7), max_size=6),
    vocab_size=st.sampled_from([1000, 1 << 16, (1 << 16) + 1]),
)
def test_documents_come_back(tmp_path_factory, documents, vocab_size):
    file = write(tmp_path_factory.mktemp("tokens") / "a.tokens", documents, vocab_size)
    assert [file.document(i).tolist() for i in range(file.num_documents)] == documents
    assert file.tokens.tolist() == [token for document in documents for token in document]
    assert file.tokens.dtype == (np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    assert (file.vocab_size, file.fingerprint) == (vocab_size, "f" * 64)


def test_large_ids_survive(tmp_path):
    assert write(tmp_path / "a", [[65535]], 1 << 16).tokens.tolist() == [65535]
    assert write(tmp_path / "b", [[65536, (1 << 32) - 1]], 1 << 32).tokens.tolist() == [65536, (1 << 32) - 1]


def test_bytes_per_token(tmp_path):
    assert write(tmp_path / "a.tokens", [[1, 2], [3]]).bytes_per_token == 3.0


def test_the_tokens_stay_on_disk(tmp_path):
    file = write(tmp_path / "a.tokens", [range(10)])
    assert isinstance(file.tokens, np.memmap)
    assert not file.tokens.flags.writeable


def test_a_worker_process_opens_the_file_itself(tmp_path):
    file = write(tmp_path / "a.tokens", [[7] * 100_000])
    assert len(pickle.dumps(file)) < 1000
    assert pickle.loads(pickle.dumps(file)).tokens[99_999] == 7


@pytest.mark.parametrize(("tokens", "outside"), [([0, 1000, 2], 1000), ([0, -1], -1), (np.array([1 << 40]), 1 << 40)])
def test_an_id_out_of_range_is_refused_and_the_old_file_stays(tmp_path, tokens, outside):
    path = tmp_path / "a.tokens"
    write(path, [[1, 2, 3]])
    with pytest.raises(ValueError, match=f"document 1: token id {outside} is outside 0..999"):
        write(path, [[4], tokens])
    assert TokenFile(path).tokens.tolist() == [1, 2, 3]
    assert os.listdir(tmp_path) == ["a.tokens"]


def test_ids_that_are_no_integers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="document 0: tokens must be integers; got float64"):
        write(tmp_path / "a.tokens", [[0.5]])


@pytest.mark.parametrize("vocab_size", [0, (1 << 32) + 1])
def test_an_impossible_vocabulary_is_refused(tmp_path, vocab_size):
    with pytest.raises(ValueError, match="vocab_size must be in"):
        TokenFileWriter(tmp_path / "a.tokens", vocab_size, "f")


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.tokens"
    write(path, [[1, 2, 3]])
    script = f"""
        import os
        from llada.data.token_file import TokenFileWriter
        with TokenFileWriter({str(path)!r}, 1000, "f") as writer:
            writer.add([9] * 3_000_000)
            os._exit(9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60, check=False)
    assert killed.returncode == 9
    assert TokenFile(path).tokens.tolist() == [1, 2, 3]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no token file .*nowhere"):
        TokenFile(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(5000), b"just some text"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "a.tokens").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tokens is not a token file"):
        TokenFile(tmp_path / "a.tokens")


@pytest.mark.parametrize("cut", [10, 100, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5, -1])
def test_a_truncated_file_is_refused(tmp_path, cut):
    path = tmp_path / "a.tokens"
    write(path, [range(100)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tokens is truncated or damaged"):
        TokenFile(path)


@pytest.mark.parametrize(("place", "reason"), [(30, "its header is broken"), (-1, "is truncated or damaged")])
def test_a_damaged_file_is_refused(tmp_path, place, reason):
    path = tmp_path / "a.tokens"
    write(path, [range(100)])
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        TokenFile(path)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llada.data.token_header.VERSION", 2)
    with TokenFileWriter(tmp_path / "a.tokens", 10, "f") as writer:
        writer.add([1])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2, but this version reads 1; update llada"):
        TokenFile(tmp_path / "a.tokens")


GOOD = {
    "version": 1, "dtype": "uint16", "vocab_size": 1000, "num_tokens": 3, "num_documents": 1, "num_bytes": 9,
    "fingerprint": "f" * 64,
}  # fmt: skip


def with_header(path, fields, tokens=(1, 2, 3)):
    """A file as versions without a checksum wrote it."""
    content = json.dumps(fields).encode()
    head = b"LLADATOK" + len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little") + content
    path.write_bytes(
        head.ljust(HEADER_BYTES, b"\0") + np.array([*tokens, 0], "<u2").tobytes() + np.array([0, 3], "<i8").tobytes()
    )
    return path


def test_a_file_without_a_checksum_opens(tmp_path):
    file = TokenFile(with_header(tmp_path / "old.tokens", GOOD), verify=True)
    assert file.tokens.tolist() == [1, 2, 3]
    assert file.fingerprint == "f" * 64


WRONG = [None, True, -1, 1.5, "x", [], {}, 1 << 70]


@pytest.mark.parametrize("name", GOOD)
def test_every_field_of_the_header_is_checked(tmp_path, name):
    for value in WRONG:
        if name == "fingerprint" and value == "x":
            continue
        with pytest.raises(ValueError, match=f"says {name}=|has format"):
            TokenFile(with_header(tmp_path / "a.tokens", {**GOOD, name: value}))
    with pytest.raises(ValueError, match=rf"a\.tokens is truncated or damaged: its header says {name}=None"):
        TokenFile(with_header(tmp_path / "a.tokens", {key: GOOD[key] for key in GOOD if key != name}))


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"vocab_size": 65537}, {"vocab_size": 0}, {"checksum": -1}])
def test_a_header_that_contradicts_itself_is_refused(tmp_path, change):
    with pytest.raises(ValueError, match="its header says"):
        TokenFile(with_header(tmp_path / "a.tokens", {**GOOD, **change}))


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it holds the token id 1000, outside 0\.\.999"):
        TokenFile(with_header(tmp_path / "a.tokens", GOOD, tokens=(1, 1000, 3)))


def test_any_changed_byte_of_the_content_is_found(tmp_path):
    path = tmp_path / "a.tokens"
    write(path, [[1, 2, 3], [], [4, 5]])
    content = path.read_bytes()
    for place in range(HEADER_BYTES, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match="is truncated or damaged"):
            TokenFile(path)


def test_a_large_file_is_verified_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("llada.data.token_file.CHEAP_BYTES", 100)
    path = tmp_path / "a.tokens"
    write(path, [[1, 2, 3]])
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES] = 9
    path.write_bytes(content)
    assert TokenFile(path).tokens.tolist() == [9, 2, 3]
    with pytest.raises(ValueError, match="doesn't have the checksum that it was written with"):
        TokenFile(path, verify=True)


def test_documents_that_overlap_are_refused(tmp_path):
    path = with_header(tmp_path / "a.tokens", {**GOOD, "num_documents": 2})
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + 8] + np.array([0, -4, 3], "<i8").tobytes())
    with pytest.raises(ValueError, match="a document ends before it begins"):
        TokenFile(path)


def test_a_file_that_is_cut_while_it_is_open_is_a_sentence(tmp_path):
    """To read beyond the end of a mapped file ends the process with SIGBUS."""
    file = write(tmp_path / "a.tokens", [[7] * 10_000])
    rows = TokenRows(file, 100)
    os.truncate(tmp_path / "a.tokens", HEADER_BYTES + 50)
    for read in (lambda: rows[99], lambda: file.document(0)):
        with pytest.raises(ValueError, match=r"a\.tokens is truncated or damaged: 4146 bytes instead of 24112"):
            read()


def test_a_file_whose_name_is_gone_is_still_read(tmp_path):
    file = write(tmp_path / "a.tokens", [[7, 8]])
    os.unlink(tmp_path / "a.tokens")
    assert file.tokens.tolist() == [7, 8]
