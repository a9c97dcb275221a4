"""Texts with gaps to fill in: "boat [MASK:4] river" has four masked tokens between its words."""

import re

from llada.data import Tokenizer

GAP = re.compile(r"\[MASK(?::(\d+))?\]")
"""How a gap is written: ``[MASK]`` is one token to fill in, ``[MASK:8]`` eight."""


def encode_gaps(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text with gaps, a mask token for each token to fill in.

    Args:
        text: text in which ``[MASK:8]`` stands for eight tokens to fill in, and ``[MASK]`` for one.
        tokenizer: knows the mask token.

    Raises:
        ValueError: if there is no gap.
    """
    ids: list[int] = []
    end = 0
    for gap in GAP.finditer(text):
        ids += [*tokenizer.encode(text[end : gap.start()]), *[tokenizer.mask_token_id] * int(gap[1] or 1)]
        end = gap.end()
    if end == 0:
        raise ValueError(f"the template has no gap; write [MASK:8] where 8 tokens are to be filled in. Got {text!r}")
    return [*ids, *tokenizer.encode(text[end:])]
