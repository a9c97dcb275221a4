import builtins

import pytest

from llada.data import HuggingFaceDataset


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"story": "one"}\n{"story": "two"}\n')
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_data_set_is_read(offline, streaming):
    pytest.importorskip("datasets")
    source = HuggingFaceDataset("json", field="story", data_files=str(offline), streaming=streaming)
    assert list(source) == list(source) == ["one", "two"]
    with pytest.raises(ValueError, match=r"json \(train\), record 0: there is no field 'text', only 'story'"):
        list(HuggingFaceDataset("json", data_files=str(offline), streaming=streaming))
    before = source.fingerprint()
    offline.write_text('{"story": "three"}\n')
    assert source.fingerprint() != before


def test_a_missing_package_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ImportError, match=r"pip install llada\[hf\]"):
        list(HuggingFaceDataset("json"))
