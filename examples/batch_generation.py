"""Continue many prompts at once: batches of similar lengths, one seed per prompt.

    python examples/batch_generation.py LLaDA-8B-Base "The capital of France is" "Once upon a time" "2, 3, 5, 7,"

A prompt's text depends on its own seed and tokens, not on its neighbours in the batch, so batches may be formed as
memory allows. `llada generate` is this for files, and goes on where it was interrupted.
"""

import argparse
from collections.abc import Sequence

import torch

from llada import DiffusionLM
from llada.data import load_tokenizer
from llada.samplers import Blocks, Confidence, Proposal, Threshold, UnmaskingSampler, canvas


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Print the continuations, and return them in the order of the prompts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder with config.json, weights and tokenizer")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--length", type=int, default=64, help="tokens of a continuation")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)

    model = DiffusionLM.from_pretrained(given.checkpoint, device=given.device)
    tokenizer = load_tokenizer(given.checkpoint)
    # Amount whatever the model is at least 90 % sure of, block by block: never more calls than one per token.
    sampler = UnmaskingSampler(
        amount=Threshold(0.9),
        order=Confidence(),
        proposal=Proposal(temperature=0.0),
        window=Blocks(min(32, given.length), tokenizer.eos_token_id),
    )

    ids = [tokenizer.encode(prompt) for prompt in given.prompts]
    by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # neighbours need little padding
    texts = [""] * len(ids)
    for start in range(0, len(ids), given.batch_size):
        rows = by_length[start : start + given.batch_size]
        made = canvas(
            [ids[row] for row in rows],
            given.length,
            mask_token_id=tokenizer.mask_token_id,
            pad_token_id=tokenizer.special_id("pad"),
        )
        filled = model.generate(*made, sampler=sampler, seed=given.seed + torch.tensor(rows))
        for row, tokens, calls in zip(rows, filled.tokens.tolist(), filled.calls.tolist(), strict=True):
            new = tokens[-given.length :]
            end = new.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in new else None
            texts[row] = tokenizer.decode(new[:end])
            print(f"[{calls} calls] {given.prompts[row]}|{texts[row]}")
    return texts


if __name__ == "__main__":
    main()
