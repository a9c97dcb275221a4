"""Chat with a released checkpoint from Python, and watch an answer come out of the masks.

    python examples/chat_with_checkpoint.py LLaDA-8B-Instruct "What is a rainbow?" "Why is it round?"

The folder is one as it is downloaded: config.json, the weights, the tokenizer's files. The 8B model's weights take 16
GB in bfloat16. `llada chat` is this with commands, a history that fits the context and a display in place.
"""

import argparse
from collections.abc import Sequence

import torch

from llada.data import ChatTemplate, Message, Tokenizer, load_tokenizer
from llada.data.chat.jinja_template import checkpoint_template
from llada.module import DiffusionLM
from llada.samplers import canvas, low_confidence

BLOCK = 32


def answer(
    model: DiffusionLM, tokenizer: Tokenizer, template: ChatTemplate, messages: list[Message], length: int, steps: int
) -> str:
    """One answer of at most ``length`` tokens, printed while it is written."""
    prompt = template.prompt(messages, tokenizer)  # ends with the header of the assistant's turn
    made = canvas([prompt], length, mask_token_id=tokenizer.mask_token_id, pad_token_id=tokenizer.special_id("pad"))
    # An Instruct model was trained to fill the rest of its canvas with EOS, and is so sure of it that it would begin
    # there. Blocks keep it from that: each is finished before the next one, and nothing follows the one with EOS.
    sampler = low_confidence(steps, block_length=min(BLOCK, length), stop_token_ids=tokenizer.eos_token_id)
    text = ""
    for step in model.iterate(*made, sampler=sampler):
        ids = step.tokens[0, len(prompt) :].tolist()
        ends = [place for place, token in enumerate(ids) if token in (tokenizer.eos_token_id, tokenizer.eot_token_id)]
        text = tokenizer.decode(ids[: ends[0] if ends else None], show_mask="░")
        print(f"{int(step.calls[0]):4d} {text!r}")
    return text


def main(arguments: Sequence[str] | None = None) -> list[Message]:
    """Ask the questions one after the other; returns the conversation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder with config.json, weights and tokenizer")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--length", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--steps", type=int, default=128, help="model calls for an answer; fewer are faster and worse")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)

    model = DiffusionLM.from_pretrained(given.checkpoint, device=given.device)
    tokenizer = load_tokenizer(given.checkpoint)
    template = checkpoint_template(given.checkpoint)  # a base model has none, and none is made up
    messages: list[Message] = []
    for question in given.questions:
        messages.append(Message("user", question))
        messages.append(Message("assistant", answer(model, tokenizer, template, messages, given.length, given.steps)))
    return messages


if __name__ == "__main__":
    main()
