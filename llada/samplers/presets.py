"""Published methods as compositions; each function is also a ``class_path`` for YAML."""

from llada.samplers.guidance import Guidance
from llada.samplers.order import Confidence, RandomOrder
from llada.samplers.propose import Proposal
from llada.samplers.quota import Binomial, Quota
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.window import Blocks, WholeCanvas, Window


def _window(block_size: int | None, stop_token_id: int | None) -> Window:
    if block_size is None:
        if stop_token_id is not None:
            raise ValueError("stop_token_id needs block_size: a canvas that is decoded as a whole has no early stop")
        return WholeCanvas()
    return Blocks(block_size, stop_token_id)


def low_confidence(
    steps: int = 64,
    block_size: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    guidance: float = 0.0,
    stop_token_id: int | None = None,
    forbidden: tuple[int, ...] = (),
) -> UnmaskingSampler:
    """LLaDA's low-confidence remasking: commit what the model is surest of, keep the rest masked.

    Args:
        steps: model calls for the whole canvas, shared evenly by the blocks.
        block_size: tokens per semi-autoregressive block; None decodes the canvas as a whole.
        temperature: of the draw; 0 takes the most likely token.
        top_p: nucleus of the draw; None for all tokens.
        guidance: classifier-free guidance scale; 0 for none.
        stop_token_id: stop a row after the block that holds this token (EOS).
        forbidden: ids that are never written.

    Reference:
        arXiv 2502.09992, algorithm 5.
    """
    return UnmaskingSampler(
        Quota(steps),
        Confidence(),
        Proposal(temperature, top_p=top_p, forbidden=forbidden),
        _window(block_size, stop_token_id),
        Guidance(guidance),
    )


def random_remasking(
    steps: int = 64,
    block_size: int | None = None,
    temperature: float = 1.0,
    top_p: float | None = None,
    guidance: float = 0.0,
    stop_token_id: int | None = None,
    forbidden: tuple[int, ...] = (),
) -> UnmaskingSampler:
    """LLaDA's random remasking: the quota of each step goes to random positions.

    At one token per step and temperature 1 this samples from the model's any-order distribution. Arguments as in
    `low_confidence`.

    Reference:
        arXiv 2502.09992, algorithm 4.
    """
    return UnmaskingSampler(
        Quota(steps),
        RandomOrder(),
        Proposal(temperature, top_p=top_p, forbidden=forbidden),
        _window(block_size, stop_token_id),
        Guidance(guidance),
    )


def ancestral(steps: int = 64, temperature: float = 1.0, top_p: float | None = None) -> UnmaskingSampler:
    """MDLM's ancestral sampling on a uniform time grid.

    Which positions a step uncovers doesn't depend on the model, so they are drawn first and the model is run for them
    alone; a step that uncovers nothing costs nothing.

    Args:
        steps: of the time grid.
        temperature: of the draw; 1 samples from the model.
        top_p: nucleus of the draw; None for all tokens.

    Reference:
        arXiv 2406.07524, equation 7.
    """
    return UnmaskingSampler(Binomial(steps), RandomOrder(), Proposal(temperature, top_p=top_p))
