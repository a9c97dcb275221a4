"""Checking a claim: what it needs is looked at first, then its command runs, and what it wrote is read.

A check is a process of its own. Its output goes where this one's does, so that it can be followed and interrupted.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llada import __version__
from llada.published.entry import Beside, Entry, Finding

PROBE = Path("examples", "claims", "report.py")
"""A file that the source has, and an installed package hasn't."""


@dataclass(frozen=True)
class Outcome:
    """What a check gave.

    Args:
        findings: numbers, and whether they agree with the claim.
        holds: whether the claim is reproduced.
        seconds: that it took.
        beside: published numbers, and what was measured here in their place.

    Examples:
        >>> from llada.published import Finding, Outcome
        >>> found = Finding("gap at 2 steps", value=0.31, error=0.02, agrees=True, rule="above 0")
        >>> outcome = Outcome([found, found._replace(agrees=False)], holds=False, seconds=62.0)
        >>> str(outcome.findings[0]), outcome.verdict
        ('agrees: gap at 2 steps: 0.31 +- 0.02 (above 0)', 'reproduced in part, 1 of 2')
    """

    findings: list[Finding]
    holds: bool
    seconds: float
    beside: Sequence[Beside] = ()

    @property
    def verdict(self) -> str:
        """In words."""
        agreeing = sum(finding.agrees for finding in self.findings)
        if self.holds:
            return "reproduced"
        return f"reproduced in part, {agreeing} of {len(self.findings)}" if agreeing else "not reproduced"


@dataclass(frozen=True)
class Consent:
    """What a user allows and asks for.

    Args:
        download: fetch models and data.
        allow_code: run programs that a model wrote.
        device: as of ``llada evaluate``; "cpu" does without a GPU.
        source: folder of the repository; None: the one that this package stands in.

    Examples:
        >>> from llada.published import CATALOGUE, Consent, refusals
        >>> released = next(entry for entry in CATALOGUE.values() if entry.download)
        >>> len(refusals(released, Consent(), has_gpu=lambda: True))
        1
        >>> refusals(released, Consent(download=True, allow_code=True), has_gpu=lambda: True)
        []
    """

    download: bool = False
    allow_code: bool = False
    device: str = "auto"
    source: Path | None = None


def find_source(given: Path | None = None) -> Path:
    """The folder of the repository, or of an unpacked source distribution.

    Args:
        given: by the user; None: where this package stands.

    Raises:
        ValueError: if it isn't there, with what to do.
    """
    folder = Path(__file__).parents[2] if given is None else given
    if (folder / PROBE).is_file():
        return folder.resolve()
    if given is not None:
        raise ValueError(f"{given} isn't the source of llada: there is no {PROBE} in it")
    raise ValueError(
        "experiments are programs of llada's source, and an installed package doesn't carry them: get the repository "
        f"or the source distribution of llada {__version__}, pip install -e '.[demo]' in it, and run this there, "
        "or name its folder by --source"
    )


def refusals(entry: Entry, consent: Consent, has_gpu: Callable[[], bool]) -> list[str]:
    """What stands in the way of a check, each with the switch that allows it; the source is another matter.

    Args:
        entry: the claim.
        consent: what the user allows.
        has_gpu: whether this machine has one; asked only if it matters.
    """
    found = []
    if entry.gpu and consent.device == "auto" and not has_gpu():
        found.append("it needs a GPU with about 20 GB, and this machine has none (--device cpu tries it all the same)")
    if entry.download and not consent.download:
        found.append("it downloads a model of 16 GB and the task's questions (allow that with --download)")
    if entry.runs_code and not consent.allow_code:
        found.append("it runs programs that the model wrote, without a sandbox (allow that with --allow_code)")
    return found


def reproduce(name: str, entry: Entry, folder: Path, quick: bool, consent: Consent) -> Outcome:
    """Run a check to its end.

    Args:
        name: of the entry.
        entry: the claim.
        folder: for what it writes.
        quick: the short form.
        consent: what the user allows; `refusals` has been asked before.

    Raises:
        ValueError: if the source isn't there, or the check has left no results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    entry.results(name, folder).unlink(missing_ok=True)  # an earlier run's would be read if this one failed
    words = [sys.executable, *entry.words(name, folder, quick, consent.device)]
    environment, place = {"OMP_NUM_THREADS": "1", **os.environ}, None
    if entry.from_source:
        place = find_source(consent.source)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    began = time.monotonic()
    subprocess.run(words, cwd=place, env=environment, check=False)
    seconds = time.monotonic() - began
    written = entry.read(name, folder)
    findings = entry.findings(written)
    return Outcome(findings, entry.holds(findings), seconds, entry.beside(written))
