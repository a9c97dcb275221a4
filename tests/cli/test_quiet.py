"""What a training shows of warnings and notices."""

import logging
import warnings

import lightning.pytorch.trainer.call
import pytest

from llada.cli.quiet import quiet


@pytest.mark.parametrize(("file", "where"), [(lightning.pytorch.trainer.call.__file__, ""), ("mine.py", "mine.py:3: ")])
def test_a_warning_names_the_users_files_alone(file: str, where: str) -> None:
    before = warnings.formatwarning
    with quiet():
        assert warnings.formatwarning("no steps", UserWarning, file, 3) == f"{where}warning: no steps\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_what_is_done_with_the_data_is_said_unless_somebody_chose_a_level(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    data = logging.getLogger("llada.data")
    monkeypatch.setattr(data, "propagate", False)  # pytest listens at the root
    monkeypatch.setattr(data, "level", level)
    with quiet():
        logging.getLogger("llada.data.text").info("train: %d tokens", 7)
    logging.getLogger("llada.data.text").info("train: %d tokens", 8)
    assert capsys.readouterr().err == ("" if level else "train: 7 tokens\n")
    assert not data.handlers
