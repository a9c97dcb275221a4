"""Methods that share the masks among a given number of steps: LLaDA, MaskGIT, Dream."""

from llada.samplers.amount.quota import Binomial, CosineQuota, DreamFloor, PerStep, Quota
from llada.samplers.guidance import Guidance
from llada.samplers.order import Confidence, LeftToRight, Margin, NegativeEntropy, Order, RandomOrder, Stochastic
from llada.samplers.propose import Proposal
from llada.samplers.rates.rates import Ancestral
from llada.samplers.unmasking import UnmaskingSampler
from llada.samplers.window import Blocks, WholeCanvas, Window


def window(block_length: int | None, stop_token_id: int | None) -> Window:
    """Blocks, or the whole canvas if there is no size.

    Raises:
        ValueError: if the whole canvas is to stop early.
    """
    if block_length is None:
        if stop_token_id is not None:
            raise ValueError("stop_token_id needs block_length: a canvas that is decoded as a whole has no early stop")
        return WholeCanvas()
    return Blocks(block_length, stop_token_id)


def low_confidence(
    steps: int = 64,
    block_length: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    guidance: float = 0.0,
    stop_token_id: int | None = None,
    forbidden: tuple[int, ...] = (),
) -> UnmaskingSampler:
    """LLaDA's low-confidence remasking: commit what the model is surest of, keep the rest masked.

    Args:
        steps: model calls for the whole canvas, shared evenly by the blocks.
        block_length: tokens per semi-autoregressive block; None decodes the canvas as a whole.
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
        window(block_length, stop_token_id),
        Guidance(guidance),
    )


def random_remasking(
    steps: int = 64,
    block_length: int | None = None,
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
        window(block_length, stop_token_id),
        Guidance(guidance),
    )


def left_to_right(
    block_length: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    stop_token_id: int | None = None,
) -> UnmaskingSampler:
    """One token per step from left to right, as an autoregressive model writes.

    Args:
        block_length: only for the early stop; the order is the same.
        temperature: of the draw; 0 takes the most likely token.
        top_p: nucleus of the draw; None for all tokens.
        stop_token_id: stop a row after the block that holds this token (EOS).
    """
    return UnmaskingSampler(
        PerStep(1), LeftToRight(), Proposal(temperature, top_p=top_p), window(block_length, stop_token_id)
    )


def maskgit(steps: int = 16, temperature: float = 1.0, choice_temperature: float = 4.5) -> UnmaskingSampler:
    """MaskGIT: cosine counts, and an order drawn by confidence.

    The reference lowers the noise of the order to 0 in the last step; here it stays.

    Args:
        steps: model calls.
        temperature: of the draw of tokens.
        choice_temperature: noise of the order, in units of the confidence (a probability); 0 for none.

    Reference:
        Chang et al., "MaskGIT: Masked Generative Image Transformer", arXiv 2202.04200, section 3.2.
    """
    order: Order = Stochastic(Confidence(), choice_temperature) if choice_temperature else Confidence()
    return UnmaskingSampler(CosineQuota(steps), order, Proposal(temperature))


def _dream(
    order: Order, steps: int, temperature: float, top_p: float | None, top_k: int | None, alg_temp: float
) -> UnmaskingSampler:
    drawn = Stochastic(order, alg_temp) if alg_temp else order
    return UnmaskingSampler(DreamFloor(steps), drawn, Proposal(temperature, top_p, top_k))


def dream_entropy(
    steps: int = 512,
    temperature: float = 0.2,
    top_p: float | None = 0.95,
    top_k: int | None = None,
    alg_temp: float = 0.0,
) -> UnmaskingSampler:
    """Dream's recommended sampler (``alg="entropy"``): the most certain distribution first.

    Args:
        steps: of the grid; those that commit nothing are free.
        temperature: of the draw; 0 takes the most likely token.
        top_p: nucleus; None for all tokens. Scores are taken after it.
        top_k: so many tokens; None for all.
        alg_temp: noise of the order; 0 for none.

    Reference:
        Ye et al., "Dream 7B", arXiv 2508.15487.
    """
    return _dream(NegativeEntropy(filtered=True), steps, temperature, top_p, top_k, alg_temp)


def topk_margin(
    steps: int = 512,
    temperature: float = 0.2,
    top_p: float | None = 0.95,
    top_k: int | None = None,
    alg_temp: float = 0.0,
) -> UnmaskingSampler:
    """Dream with ``alg="topk_margin"``: the largest lead of the best token over the second first.

    Arguments as in `dream_entropy`.

    Reference:
        Kim et al., "Train for the Worst, Plan for the Best", arXiv 2502.06768, section 4.
    """
    return _dream(Margin(filtered=True), steps, temperature, top_p, top_k, alg_temp)


def maskgit_plus(
    steps: int = 512,
    temperature: float = 0.2,
    top_p: float | None = 0.95,
    top_k: int | None = None,
    alg_temp: float = 0.0,
) -> UnmaskingSampler:
    """Dream with ``alg="maskgit_plus"``: the most confident token first. Arguments as in `dream_entropy`."""
    return _dream(Confidence(filtered=True), steps, temperature, top_p, top_k, alg_temp)


def dream_origin(
    steps: int = 512, temperature: float = 0.2, top_p: float | None = 0.95, top_k: int | None = None
) -> UnmaskingSampler:
    """Dream with ``alg="origin"``: every mask is uncovered with probability 1 - s / t on a grid from 1 to 0.001.

    Arguments as in `dream_entropy`.
    """
    return UnmaskingSampler(
        Binomial(steps), RandomOrder(), Proposal(temperature, top_p, top_k), rates=Ancestral(t_min=1e-3)
    )
