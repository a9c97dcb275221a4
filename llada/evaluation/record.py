"""What a file of scores says of how they were measured, so that they can be measured again, and compared."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from llada import __version__
from llada.evaluation.evaluation_model import EvaluationModel
from llada.metrics import ConditionalLikelihood

PACKAGES = ("torch", "lm_eval", "transformers", "datasets")
UNITS = (
    "NAME,FILTER is a score as its task defines it, accuracies as shares of 1; NAME_stderr,FILTER is one standard error"
)


def record(model: EvaluationModel, found: Mapping[str, Any], **asked: Any) -> dict[str, Any]:
    """How scores were measured.

    Args:
        model: that was measured.
        found: what `llada.evaluation.run_tasks` returned.
        asked: what else is to be said, such as the command and the checkpoint; goes in front.

    Returns:
        What JSON can hold: settings, dates in UTC, versions; of each task its version, how many questions were
        asked of how many, and how many examples stood in each prompt.
    """
    text, settings = model.text, found.get("config", {})
    weights = next(text.model.parameters())
    return {
        **asked,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": model.seed,
        "seeds_of_the_harness": {name: value for name, value in settings.items() if name.endswith("_seed")},
        "model": type(text.model).__name__,
        "sampler": repr(text.decoding),
        "likelihood": repr(model.estimator or ConditionalLikelihood()),
        "num_new_tokens": model.num_new_tokens,
        "check_greedy": model.check_greedy,
        "score_end": model.score_end,
        "bos": text.bos,
        "limit": settings.get("limit"),
        "gen_kwargs": settings.get("gen_kwargs"),
        "questions": found.get("n-samples", {}),
        "examples": found.get("n-shot", {}),
        "task_versions": found.get("versions", {}),
        "device": weights.device.type,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "processes": model.ranks.size,
        "versions": {"llada": __version__, "python": platform.python_version(), **_versions()},
        "units": UNITS,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
