"""Published claims, and what checks each of them here: an experiment of this repository, or a released model."""

from llada.published.catalogue import CATALOGUE
from llada.published.entry import Beside, Entry, Experiment, Finding, Released, shown
from llada.published.running import Consent, Outcome, find_source, refusals, reproduce

__all__ = [
    "CATALOGUE",
    "Beside",
    "Consent",
    "Entry",
    "Experiment",
    "Finding",
    "Outcome",
    "Released",
    "find_source",
    "refusals",
    "reproduce",
    "shown",
]
