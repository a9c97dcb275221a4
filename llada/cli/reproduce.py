"""``llada reproduce [NAME]``: published claims, and what is found when they are tried here.

    llada reproduce                         # the claims, what was published, what a check needs and takes
    llada reproduce reversal                # the short form of our experiment, beside the published number
    llada reproduce llada-8b-base/gsm8k     # a released model's score, and the command that checks it

Nothing that is printed as ours is stored anywhere: it is measured by the command, or it isn't printed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llada.cli.boundary import Misunderstood
from llada.cli.kinds import InputFolder, OutputFolder, Word
from llada.cli.nearest import no_such
from llada.cli.plain import run_plain
from llada.published import CATALOGUE, Consent, Entry, Experiment, Outcome, find_source, refusals, shown
from llada.published import reproduce as check


class NotReproduced(ValueError):
    """The check ran to its end, and what it measured doesn't say what was claimed."""


def reproduce(
    name: Word | None = None,
    full: bool = False,
    folder: OutputFolder = "runs/reproduced",
    source: InputFolder | None = None,
    download: bool = False,
    allow_code: bool = False,
    device: str = "auto",
    jsonl: bool = False,
) -> None:
    """Check a published claim here, and show the published number beside ours; without a name: list the claims.

    Args:
        name: of the claim, such as few-data or llada-8b-base/gsm8k; default: list all.
        full: the long form; default: the short one, minutes for an experiment and 100 questions for a released model.
        folder: where results go.
        source: folder of llada's repository, whose programs the experiments are; default: where this package stands.
        download: fetch the released model and the task's questions.
        allow_code: let a task run programs that the model wrote; on this machine, without a sandbox.
        device: of a released model: cpu, cuda, ...; auto needs a GPU.
        jsonl: print JSON objects, one per line: the claims, or the findings of a check.
    """
    if name is not None and name not in CATALOGUE:
        raise Misunderstood(no_such("claim", name, CATALOGUE))
    if name is None:
        _list(jsonl)
        return
    entry, quick = CATALOGUE[name], not full
    if entry.from_source:
        source = str(find_source(None if source is None else Path(source)))
    consent = Consent(download, allow_code, device, None if source is None else Path(source))
    if not jsonl:
        print(announced(name, entry, Path(folder), quick, device), flush=True)
    reasons = refusals(entry, consent, _has_gpu)
    if reasons:
        raise ValueError(f"{name} isn't started: {'; '.join(reasons)}")
    outcome = check(name, entry, Path(folder), quick, consent)
    _tell(name, entry, outcome, jsonl)


def announced(name: str, entry: Entry, folder: Path, quick: bool, device: str) -> str:
    """What is about to be checked, and how.

    Args:
        name: of the claim.
        entry: the claim.
        folder: where results go.
        quick: the short form.
        device: of a released model.
    """
    lines = [
        f"claimed    {entry.claim}",
        f"source     {entry.paper}",
        f"published  {entry.published}",
    ]
    if isinstance(entry, Experiment):
        lines += [f"here       {entry.ours}", f"long form  {entry.page}"]
    command = shown(entry.words(name, folder, quick, device))
    return "\n".join([*lines, f"time       {entry.time(quick)}", f"command    {command}", ""])


def known(name: str, entry: Entry) -> dict[str, object]:
    """What the list says of a claim.

    Args:
        name: of the claim.
        entry: the claim.
    """
    return {
        "name": name,
        "paper": entry.paper,
        "claim": entry.claim,
        "published": entry.published,
        "needs": needs(entry),
        "here": runs_here(entry),
        "quick": entry.time(quick=True),
        "full": entry.time(quick=False),
    }


def needs(entry: Entry) -> list[str]:
    """What a check needs beside this package.

    Args:
        entry: the claim.
    """
    wanted = {
        "source": entry.from_source,
        "GPU": entry.gpu,
        "download": entry.download,
        "allow_code": entry.runs_code,
    }
    return [name for name, holds in wanted.items() if holds]


def runs_here(entry: Entry) -> bool:
    """Whether this machine has what a check needs, if its user allows it.

    Args:
        entry: the claim.
    """
    if entry.gpu and not _has_gpu():
        return False
    try:
        return not entry.from_source or bool(find_source())
    except ValueError:
        return False


def _list(jsonl: bool) -> None:
    entries = [known(name, entry) for name, entry in CATALOGUE.items()]
    if jsonl:
        print(*map(json.dumps, entries), sep="\n")
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("claim", no_wrap=True)
    table.add_column("what it says, and what a check takes", overflow="fold")
    for entry in entries:
        takes = {"runs here": "here", "needs": "needs", "short form": "quick"}
        check = "; ".join(f"{title}: {_cell(entry[column])}" for title, column in takes.items())
        published = f"published: {entry['published']} ({entry['paper']})"
        table.add_row(str(entry["name"]), "\n".join([str(entry["claim"]), published, check]))
    console.print(table, markup=False)
    console.print("\nllada reproduce NAME checks one; llada reproduce NAME --full takes its long form.", markup=False)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _tell(name: str, entry: Entry, outcome: Outcome, jsonl: bool) -> None:
    if jsonl:
        found = [*(each._asdict() for each in outcome.findings), *(each._asdict() for each in outcome.beside)]
        print(*map(json.dumps, found), sep="\n")
    else:
        print(f"\npublished  {entry.published}")
        print("ours", *(f"  {finding}" for finding in outcome.findings), sep="\n")
        if outcome.beside:
            print("the published numbers, and ours", *(f"  {each}" for each in outcome.beside), sep="\n")
        print(f"verdict    {name}: {outcome.verdict}, in {outcome.seconds / 60:.1f} min")
    if not outcome.holds:
        failed = [finding.what for finding in outcome.findings if not finding.agrees]
        raise NotReproduced(f"{name} isn't reproduced: {'; '.join(failed) or 'nothing was measured'}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main(command: str, arguments: Sequence[str]) -> None:
    """Entry point of the front; see `llada.cli`."""
    run_plain(reproduce, command, arguments)
