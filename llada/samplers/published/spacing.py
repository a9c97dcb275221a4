"""This library's own: tokens that are written together stand far apart.

The arguments behind ``**common`` are those of `llada.samplers.published.preset.Common`.
"""

from typing import Unpack

from llada.samplers.amount.amount import Tied
from llada.samplers.amount.quota import Quota
from llada.samplers.order import Margin
from llada.samplers.published.preset import Common, common_parts, preset
from llada.samplers.spacing import Comb, Spread
from llada.samplers.unmasking import UnmaskingSampler


@preset(temperature=1.0)
def spread(steps: int | None = None, **common: Unpack[Common]) -> UnmaskingSampler:
    """Positions in the order of their number read backwards in binary; the model runs only where a token is written.

    Args:
        steps: model calls for the whole canvas; None for one per mask.
    """
    return UnmaskingSampler(Quota(steps), Spread(), **common_parts(common))


@preset(temperature=1.0)
def comb(stride: int = 8, **common: Unpack[Common]) -> UnmaskingSampler:
    """Every stride-th position in one call, of those combs the one first whose margins are largest in the mean.

    Args:
        stride: model calls for a canvas or a block.
    """
    return UnmaskingSampler(Tied(), Comb(Margin(), stride), **common_parts(common))
