"""What a published claim is, and how it is checked: by an experiment of this repository or on a released model.

An entry says what was claimed and published, by whom, and what a check needs and takes. It holds no result of ours:
those are measured by the command, and found in what it writes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

from llada.evaluation import Protocol
from llada.files.json_object import read_object

SIGMAS = 2.0
"""Standard errors within which a measured score agrees with a published one."""
SAMPLE = 100
"""Questions of a task in the short form of a check."""
Z = 1.959964  # half the width of a 95 % interval, in standard errors


class Finding(NamedTuple):
    """One number that was measured.

    Attributes:
        what: in words.
        value: as measured.
        error: its standard error; that of an interval is half its width over 1.96.
        agrees: whether it says what was claimed.
        rule: what it was compared with.
    """

    what: str
    value: float
    error: float
    agrees: bool
    rule: str

    def __str__(self) -> str:
        word = "agrees" if self.agrees else "DOESN'T AGREE"
        return f"{word}: {self.what}: {self.value:.3g} +- {self.error:.2g} ({self.rule})"


class Beside(NamedTuple):
    """A published number, and the same of models that are trained here, which aren't expected to reach it.

    Attributes:
        what: in words, with the unit.
        published: in words.
        value: as measured here.
        error: its standard error, as of a `Finding`.
    """

    what: str
    published: str
    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.what}: {self.published}; here {self.value:.3g} +- {self.error:.2g}"


@dataclass(frozen=True, kw_only=True)
class Entry(ABC):
    """A claim.

    Args:
        paper: where it was published, such as "arXiv 2502.09992".
        claim: in a sentence.
        published: its number, in words.
    """

    paper: str
    claim: str
    published: str

    gpu = False
    """Whether a check needs a GPU."""
    download = False
    """Whether a check fetches a model or data."""
    from_source = False
    """Whether a check runs what only the source has, and not an installed package."""
    runs_code = False
    """Whether a check runs programs that a model wrote."""

    @abstractmethod
    def time(self, quick: bool) -> str:
        """About how long a check takes."""

    @abstractmethod
    def words(self, name: str, folder: Path, quick: bool, device: str) -> list[str]:
        """The command that checks it, behind ``python``.

        Args:
            name: of the entry.
            folder: where it writes.
            quick: the short form.
            device: for a model.
        """

    @abstractmethod
    def results(self, name: str, folder: Path) -> Path:
        """The JSON file that the command writes."""

    @abstractmethod
    def findings(self, written: dict[str, Any]) -> list[Finding]:
        """What that file says of the claim."""

    def beside(self, written: dict[str, Any]) -> list[Beside]:
        """What it has measured of the published numbers."""
        return []

    def holds(self, findings: list[Finding]) -> bool:
        """Whether the claim is reproduced: every finding agrees, and there is one."""
        return bool(findings) and all(finding.agrees for finding in findings)

    def read(self, name: str, folder: Path) -> dict[str, Any]:
        """What a run has written.

        Raises:
            ValueError: if it has left no results.
        """
        path = self.results(name, folder)
        if not path.exists():
            raise ValueError(f"the run ended without {path}; its own message says why")
        return read_object(path)


@dataclass(frozen=True, kw_only=True)
class Experiment(Entry):
    """A claim about models that are trained here, against a control.

    Args:
        program: words behind ``python``: a module or a script of this repository.
        minutes: of one core, of the short and the long form; None for one that nobody has timed.
        ours: how our experiment differs from the published one.
        page: of the documentation, where the long form's results stand.
        option: that names the folder for results.
        file: that the program writes there, without ``.json``.
        numbers: those of ``published`` that the program measures, too: what it calls them, and what was published.

    Examples:
        >>> from pathlib import Path
        >>> from llada.published import CATALOGUE, Experiment
        >>> entry = CATALOGUE["few-data"]
        >>> isinstance(entry, Experiment), entry.time(quick=True), entry.from_source
        (True, 'about 2 min of one core', True)
        >>> entry.words("few-data", Path("runs"), quick=True, device="cpu")
        ['-m', 'examples.claims.few_data', '--quick', '--folder', 'runs']
    """

    program: tuple[str, ...]
    minutes: tuple[int, int | None]
    ours: str
    page: str
    option: str = "--folder"
    file: str
    numbers: Mapping[str, str] = field(default_factory=dict)

    from_source = True

    @override
    def time(self, quick: bool) -> str:
        """Minutes of one core."""
        minutes = self.minutes[0 if quick else 1]
        return "hours of one core, not measured" if minutes is None else f"about {minutes} min of one core"

    @override
    def words(self, name: str, folder: Path, quick: bool, device: str) -> list[str]:
        return [*self.program, *(["--quick"] if quick else []), self.option, str(folder)]

    @override
    def results(self, name: str, folder: Path) -> Path:
        return folder / f"{self.file}.json"

    @override
    def findings(self, written: dict[str, Any]) -> list[Finding]:
        """What the experiment checks, each with its interval."""
        return [
            Finding(check["claim"], *_value(check["measured"]), check["holds"], check["rule"])
            for check in written["checks"]
        ]

    @override
    def beside(self, written: dict[str, Any]) -> list[Beside]:
        found = written.get("numbers", {})
        return [
            Beside(what, published, *_value(found[what])) for what, published in self.numbers.items() if what in found
        ]


def _value(measured: dict[str, float]) -> tuple[float, float]:
    """Of an interval: the estimate, and its standard error."""
    return measured["mean"], (measured["high"] - measured["low"]) / (2 * Z)


@dataclass(frozen=True, kw_only=True)
class Released(Entry):
    """A score of a released model on a task of the Language Model Evaluation Harness.

    Args:
        protocol: how it was measured.

    Examples:
        >>> from llada.published import CATALOGUE, Released
        >>> name, entry = next((name, entry) for name, entry in CATALOGUE.items() if isinstance(entry, Released))
        >>> name, entry.published
        ('llada-8b-base/gpqa', '25.2 %')
    """

    protocol: Protocol

    gpu = download = True

    @property
    def runs_code(self) -> bool:  # type: ignore[override]
        """Whether the task runs what the model wrote."""
        return self.protocol.runs_code

    @override
    def time(self, quick: bool) -> str:
        """Nobody has measured it here."""
        return f"not measured; {SAMPLE if quick else 'all'} questions"

    @override
    def words(self, name: str, folder: Path, quick: bool, device: str) -> list[str]:
        """``llada evaluate`` with the protocol."""
        words = ["-m", "llada", "evaluate", "--protocol", name, "--dtype", "bfloat16"]
        if device != "auto":
            words += ["--device", device]
        if self.runs_code:
            words.append("--allow_code")
        if quick:
            words += ["--limit", str(SAMPLE)]
        return [*words, "--output", str(self.results(name, folder))]

    @override
    def results(self, name: str, folder: Path) -> Path:
        return folder / f"{name.replace('/', '-')}.json"

    @override
    def holds(self, findings: list[Finding]) -> bool:
        """Whether one of the task's metrics agrees."""
        return any(finding.agrees for finding in findings)

    @override
    def findings(self, written: dict[str, Any]) -> list[Finding]:
        """The task's scores with a standard error: the sources don't say which of a task's metrics was published."""
        task, findings = self.protocol.task, []
        found = written.get(task, {})
        for name, value in found.items():
            metric, _, choice = name.partition(",")
            error = found.get(f"{metric}_stderr,{choice}")
            if not isinstance(value, float) or not isinstance(error, float):
                continue
            published = self.protocol.score / 100
            rule = f"within {SIGMAS:g} standard errors of {published:.3f}"
            agrees = abs(value - published) <= SIGMAS * error
            findings.append(Finding(f"{task}, {metric} ({choice})", value, error, agrees, rule))
        return findings


def shown(words: list[str]) -> str:
    """A command for a reader, who says ``llada`` and ``python``."""
    return " ".join(["llada", *words[2:]] if words[:2] == ["-m", "llada"] else ["python", *words])
