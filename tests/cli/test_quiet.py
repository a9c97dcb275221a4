"""What a training shows of warnings and notices."""

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
