"""How a published method becomes a preset: a function that builds its sampler, and a name.

llada sample model.ckpt --sampler fast_dllm --sampler.threshold 0.8
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, cast

from llada.samplers.guidance import Guidance
from llada.samplers.propose import Proposal
from llada.samplers.sampler import Sampler
from llada.samplers.stopping import TokenIds, token_ids
from llada.samplers.window import Blocks, WholeCanvas, Window

P = ParamSpec("P")
S = TypeVar("S", bound=Sampler)

PRESETS: dict[str, Callable[..., Sampler]] = {}
"""Name -> the function that builds the sampler, in which every argument has a default."""


class Common(TypedDict, total=False):
    """Arguments that presets share; they are keywords behind a method's own arguments.

    Attributes:
        block_length: tokens per semi-autoregressive block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token, 1 samples from the model.
        top_p: keep the smallest set of tokens with at least this much probability; None for all.
        top_k: keep this many tokens; None for all.
        guidance: classifier-free guidance scale; 0 for none.
        stop_token_ids: a token or several; a row ends after the block that holds one of them (EOS).
        suppress_tokens: ids that are never written.
    """

    block_length: int | None
    temperature: float
    top_p: float | None
    top_k: int | None
    guidance: float
    stop_token_ids: TokenIds
    suppress_tokens: tuple[int, ...]


_DEFAULTS: Common = {
    "block_length": None,
    "temperature": 0.0,
    "top_p": None,
    "top_k": None,
    "guidance": 0.0,
    "stop_token_ids": None,
    "suppress_tokens": (),
}


def preset(without: tuple[str, ...] = (), **defaults: Unpack[Common]) -> Callable[[Callable[P, S]], Callable[P, S]]:
    """Enter a function into `PRESETS`, and complete its common arguments.

    Args:
        without: common arguments that the method can't have.
        defaults: of common arguments, where the method's own differ from those of LLaDA.
    """
    values = cast(dict[str, Any], {**_DEFAULTS, **defaults})

    def register(build: Callable[P, S]) -> Callable[P, S]:
        types = inspect.get_annotations(Common)
        block = types["block_length"] if values["block_length"] is None else int
        own = [p for p in inspect.signature(build).parameters.values() if p.kind is not p.VAR_KEYWORD]
        tail = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=value,
                annotation=block if name == "block_length" else types[name],
            )
            for name, value in values.items()
            if name not in without
        ]
        signature = inspect.Signature([*own, *tail], return_annotation=inspect.signature(build).return_annotation)

        @functools.wraps(build)
        def built(*args: P.args, **kwargs: P.kwargs) -> S:
            signature.bind(*args, **kwargs)  # refuses what the method doesn't take
            return build(*args, **cast(Any, {**values, **kwargs}))

        vars(built)["__signature__"] = signature
        del vars(built)["__wrapped__"]
        PRESETS[build.__name__] = built
        return built

    return register


def common_parts(common: Common, *, from_start: bool = False, crossing: bool = True) -> dict[str, Any]:
    """Proposal, window and guidance of a sampler, as keywords.

    Args:
        common: complete, as `preset` makes it.
        from_start: whether blocks count from the first column.
        crossing: whether the nucleus has the token with which it reaches ``top_p``.

    Raises:
        ValueError: if the whole canvas is to stop early.
    """
    proposal = Proposal(common["temperature"], common["top_p"], common["top_k"], common["suppress_tokens"], crossing)
    window: Window = WholeCanvas()
    if common["block_length"] is not None:
        window = Blocks(common["block_length"], common["stop_token_ids"], from_start)
    elif token_ids(common["stop_token_ids"]):
        raise ValueError("stop_token_ids needs block_length: a canvas that is decoded as a whole has no early stop")
    return {"proposal": proposal, "window": window, "guidance": Guidance(common["guidance"])}
