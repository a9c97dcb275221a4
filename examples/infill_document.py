"""Fill the gaps of a document: what stands before and after a gap decides together what goes into it.

    python examples/infill_document.py LLaDA-8B-Base "Once upon a time[MASK:12]and so they lived happily ever after."

[MASK:12] is a gap of twelve tokens. The canvas is the document with masks in its gaps; samplers fill masks wherever
they stand, and never touch a token that is given. Autoregressive models can't do this: they don't see what follows.
"""

import argparse
from collections.abc import Sequence

import torch

from llada import DiffusionLM
from llada.data import load_tokenizer
from llada.samplers import low_confidence
from llada.text import encode_gaps


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Print the filled documents, and return them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder with config.json, weights and tokenizer")
    parser.add_argument("document", help="text with [MASK:8] where 8 tokens are missing")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)

    model = DiffusionLM.from_pretrained(given.checkpoint, device=given.device)
    tokenizer = load_tokenizer(given.checkpoint)
    ids = torch.tensor([encode_gaps(given.document, tokenizer)])
    gaps = model.process.is_masked(ids)
    # One token per call is the most careful way. EOS would end the document in its middle.
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    sampler = low_confidence(steps=int(gaps.sum()), temperature=given.temperature, suppress_tokens=end)
    filled = model.generate(ids.expand(given.samples, -1), sampler=sampler).tokens.cpu()
    assert torch.equal(filled[:, ~gaps[0]], ids[:, ~gaps[0]].expand(given.samples, -1))  # the document is as it was
    texts = [tokenizer.decode(row) for row in filled]
    for text in texts:
        print(text)
    return texts


if __name__ == "__main__":
    main()
