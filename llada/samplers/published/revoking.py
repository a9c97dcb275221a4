"""Methods that write more tokens per call than they keep, and take some back.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.backtracking import BacktrackingSampler
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.verifying import VerifyingSampler


@preset()
def saber(least: int = 2, per_removal: int = 8, **common: Unpack[Common]) -> BacktrackingSampler:
    """Saber: write what is surer than usual, and mask again where confidence has fallen most since the last call.

    As the authors', the canvas is one block. With ``block_length`` blocks begin anew: the released code counts tokens
    of earlier blocks among what is usual, and takes some of them back, too.

    Args:
        least: tokens that a call writes at least (the authors' n).
        per_removal: one token is taken back for so many that are written (mu).

    Reference:
        "Saber: An Efficient Sampling with Adaptive Acceleration and Backtracking Enhanced Remasking for Diffusion
        Language Model", arXiv 2510.18165; the released ``generate_with_saber``, without what that does where fewer than
        n masks are left: there it may write where something stands.
    """
    return BacktrackingSampler(least, per_removal, **common_parts(common))


@preset(without=("guidance",), block_length=128)
def wino(threshold: float = 0.6, keep_threshold: float = 0.9, **common: Unpack[Common]) -> VerifyingSampler:
    """WINO, wide in and narrow out: write boldly, and mask again what the rest of the canvas doesn't bear out.

    Every call also has a mask in the place of each token of the block, so it computes L + block_length positions. The
    network must take them: `llada.backbones.BidirectionalTransformer` and checkpoints in its layout; no cache.

    Args:
        threshold: a token above this probability is written, or the best one.
        keep_threshold: a written token below this probability is masked again.

    Reference:
        Hong et al., "Wide-In, Narrow-Out: Revokable Decoding for Efficient and Effective DLLMs", arXiv 2507.18578; the
        released ``decoding_wino``. Probabilities leave out the mask token, which is never written.
    """
    return VerifyingSampler(threshold, keep_threshold, **common_parts(common))
