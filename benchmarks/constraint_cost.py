"""What a regular expression costs: making its automaton over tokens, and a step of decoding with it.

    python benchmarks/constraint_cost.py

The model is a table that costs nothing, so that a step is the sampler's own work on a vocabulary of LLaDA's size. Times
are of the processor, the least of three runs.
"""

import random
import string
import time
from collections.abc import Iterable

import torch

from llada import MaskingProcess
from llada.samplers import Blocks, Quota, RegularExpression, UnmaskingSampler

PATTERN = r'\{"name": "[A-Za-z ]{1,20}", "age": (0|[1-9]\d{0,2}), "tags": \[("[a-z]+"(, "[a-z]+")*)?\]\}'
LENGTH = 64


class MadeUp:
    """A vocabulary of random words, the characters they are made of, an end of text and a mask."""

    def __init__(self, size: int) -> None:
        draw = random.Random(0)
        characters = string.ascii_letters + string.digits + ' .,-{}[]":'
        words: dict[str, None] = dict.fromkeys(characters)
        while len(words) < size - 2:
            words["".join(draw.choices(characters, k=draw.choice((2, 3, 4, 5, 6, 8, 10))))] = None
        self.words, self.vocab_size = [*words, "", ""], size
        self.ids = {word: token for token, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        """Character by character."""
        return [self.ids[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The words in a row."""
        return "".join(self.words[int(token)] for token in ids)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    vocabulary = MadeUp(126_464)
    end, mask = vocabulary.vocab_size - 2, vocabulary.vocab_size - 1
    begun = time.process_time()
    rule = RegularExpression(PATTERN, vocabulary, (end,))
    states, classes = rule.automaton.next.shape
    print(f"automaton: {states} states, {classes} classes, {time.process_time() - begun:.2f} s")
    logits = torch.randn(1, LENGTH, vocabulary.vocab_size, generator=torch.Generator().manual_seed(0))
    canvas = torch.full((1, LENGTH), mask)
    for steps in (LENGTH, LENGTH // 4):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(3):
            for constrained in times:
                sampler = UnmaskingSampler(Quota(steps), window=Blocks(32), adjustments=(rule,) if constrained else ())
                begun = time.process_time()
                sampler(lambda tokens: logits, canvas, MaskingProcess(mask))
                times[constrained].append(1000 * (time.process_time() - begun) / steps)
        free, bound = (min(times[constrained]) for constrained in (False, True))
        print(f"{LENGTH // steps} tokens per step: {free:.1f} ms free, {bound:.1f} ms under the expression")


if __name__ == "__main__":
    main()
