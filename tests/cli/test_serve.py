"""``llada serve`` opens to others only with a token, and says what is missing before it loads anything."""

from pathlib import Path

import pytest

from llada.cli import main


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "LLADA_TOKEN="),
        (["--host", "example.org"], "LLADA_TOKEN="),
        (["--port", "70000"], "port must be from 0 to 65535"),
        (["--num_new_tokens", "9", "--max_new_tokens", "8"], "num_new_tokens=9 is more than max_new_tokens=8"),
        (["--host", "localhost"], "empty.ckpt is damaged"),
        (["--host", "::1"], "empty.ckpt is damaged"),
    ],
)
def test_refusals(
    options: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLADA_TOKEN", raising=False)
    (tmp_path / "empty.ckpt").touch()
    assert main(["serve", str(tmp_path / "empty.ckpt"), *options]) == 1
    assert why in capsys.readouterr().err
