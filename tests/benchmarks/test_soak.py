"""The short form of the soak test; the long one is `make soak`."""

import os

import pytest

from benchmarks import soak


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork")
def test_a_killed_run_ends_as_if_nobody_had_killed_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--runs", "1", "--kills", "2", "--settings", "window"]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 runs ended as if nobody had killed them\n")


def test_differences_are_seen() -> None:
    first = [{"a": [1, soak.torch.zeros(2)]}]
    assert soak.same(first, [{"a": [1, soak.torch.zeros(2)]}])
    for other in ([{"a": [1, soak.torch.ones(2)]}], [{"a": [1]}], [{"b": [1, soak.torch.zeros(2)]}], [], [{"a": 1}]):
        assert not soak.same(first, other)
