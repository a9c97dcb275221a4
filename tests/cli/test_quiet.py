"""What a training shows of warnings and notices."""

import logging
import warnings

import lightning.pytorch.trainer.call
import pytest

from llada.cli.quiet import quiet


@pytest.mark.parametrize(
    ("file", "where"), [(lightning.pytorch.trainer.call.__file__, ""), ("/home/me/mine.py", "/home/me/mine.py:3: ")]
)
def test_a_warning_names_the_users_files_alone(file: str, where: str) -> None:
    before = warnings.formatwarning
    with quiet():
        assert warnings.formatwarning("no steps", UserWarning, file, 3) == f"{where}warning: no steps\n"
    assert warnings.formatwarning is before


def test_a_kernel_that_is_missing_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with quiet():
        logger.warning("Failed to load CPU gemm_4bit_forward")
    assert not caplog.records
    logger.warning("told again")
    assert [record.message for record in caplog.records] == ["told again"]
