"""Which layout of a released checkpoint can say all that a model is, and the configuration that says it."""

import warnings
from collections.abc import Sequence
from typing import Any

from llada.checkpoints.describe import argument_names, describe
from llada.checkpoints.released.families import LAYOUTS, layout_of
from llada.checkpoints.released.fields import Config
from llada.checkpoints.released.layout import Layout
from llada.checkpoints.released.materialise import build_on_meta
from llada.checkpoints.released.pretrained import Pretrained
from llada.process import Process


class _Unsaid(ValueError):
    """A model has what a layout can't say."""

    def __init__(self, layout: str, name: str, ours: Any, theirs: Any) -> None:
        super().__init__(
            f"the {layout} layout can't say {name}={ours!r}, only {theirs!r}; keep the Lightning checkpoint, or choose "
            "another layout"
        )
        self.layout, self.what = layout, f"{name}={ours!r}"


def layout_for(model: Pretrained, wanted: str | Layout | None) -> tuple[Layout, Config]:
    """The layout to save in, and the configuration with what the original one knew beside.

    Args:
        model: network, process, and the configuration it was loaded with; {} for none.
        wanted: a layout or its name; None as in `write_pretrained`.

    Raises:
        ValueError: if no layout, or not the one asked for, can say what the model is.
    """
    reasons: list[ValueError] = []
    for layout in _candidates(model.config, wanted):
        kept = model.config if model.config and layout.matches(model.config) else {}
        try:
            _check_process(layout, model.process)
            written = layout.write(model.backbone, model.process)
            config = {**kept, **{key: value for key, value in written.items() if _changed(kept, key, value)}}
            _check_complete(layout, config, model)
        except ValueError as error:
            reasons.append(error)
            continue
        return layout, config
    raise ValueError(str(reasons[0]) if len(reasons) == 1 else _in_short(reasons))


def _in_short(reasons: Sequence[ValueError]) -> str:
    """Why no layout will do: what those can't say that hold such a network at all."""
    unsaid: dict[str, list[str]] = {}
    for reason in reasons:
        if isinstance(reason, _Unsaid):
            unsaid.setdefault(reason.what, []).append(reason.layout)
    said = "; ".join(f"{', '.join(layouts)} can't say {what}" for what, layouts in unsaid.items())
    said = said or str(reasons[0]).partition(";")[0]
    return (
        f"no layout of released models can say all that this model is, so keep the Lightning checkpoint: {said}. With "
        "layout=NAME (--layout NAME) the error is about one alone"
    )


def _candidates(original: Config, wanted: str | Layout | None) -> list[Layout]:
    if isinstance(wanted, Layout):
        return [wanted]
    if wanted is None and original:
        return [layout_of(original)]
    found = [layout for layout in LAYOUTS if wanted in (None, layout.name)]
    if not found:
        raise ValueError(
            f"layout {wanted!r} is unknown; choose one of {', '.join(layout.name for layout in LAYOUTS)}, or give a "
            "layout of your own"
        )
    return found


def _check_process(layout: Layout, process: Process) -> None:
    if process.inserts or not isinstance(process, layout.processes):
        kinds = " or ".join(kind.__name__ for kind in layout.processes)
        raise ValueError(
            f"the {layout.name} layout holds models of {kinds}, not of {process}; choose another layout, or keep the "
            "Lightning checkpoint"
        )


def _check_complete(layout: Layout, config: Config, model: Pretrained) -> None:
    """Refuse a configuration that another model would be loaded from than the one that is saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that were left aside when the model was loaded
        described = layout.read(config, None)
    loaded = build_on_meta(described, {})
    names = [name for name in argument_names(described.backbone) if name not in layout.without_effect]
    compared = [(name, getattr(model.backbone, name), getattr(loaded, name)) for name in names]
    if type(described.process) is not type(model.process):
        compared.append(("process", model.process, described.process))
    for name in ("mask_token_id", "time_conditioned", "num_tokens", "posterior", "scatter", "gamma", "tells_time"):
        compared.append((name, getattr(model.process, name, None), getattr(described.process, name, None)))
    for name, ours, theirs in compared:
        if describe(ours) != describe(theirs):
            raise _Unsaid(layout.name, name, ours, theirs)


def _changed(kept: Config, key: str, value: Any) -> bool:
    """Whether a field must be written: an original field that says the same stays as it was spelt."""
    return key not in kept or (kept[key] != value and not (kept[key] is None and value in (None, False, 0)))
