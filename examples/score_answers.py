"""Which answer does a model find likeliest? Log-likelihoods of several answers to one question, with their errors.

    python examples/score_answers.py LLaDA-8B-Base "The capital of France is" " Paris." " London." " a city."

A diffusion model has no left-to-right factors to add up. What is estimated is a lower bound on log p(answer | prompt),
by masking random parts of the answer and predicting them (LLaDA's protocol has 128 draws). Answers of one length get
the same masks, so that what sets them apart is the answer; and an answer of few tokens gets the exact bound.
"""

import argparse
import math
from collections.abc import Sequence

import torch

from llada import DiffusionLM
from llada.data import load_tokenizer
from llada.metrics import ConditionalLikelihood


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answers' numbers; returns the place of the best answer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder with config.json, weights and tokenizer")
    parser.add_argument("question")
    parser.add_argument("answers", nargs="+", help="begin with a space, as the text would")
    parser.add_argument("--draws", type=int, default=128, help="masked copies per answer, a multiple of 32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)

    model = DiffusionLM.from_pretrained(given.checkpoint, device=given.device)
    tokenizer = load_tokenizer(given.checkpoint)
    answers = [tokenizer.encode(answer) for answer in given.answers]
    estimate = ConditionalLikelihood(num_samples=given.draws)(
        model.backbone,
        model.process,
        prompts=[tokenizer.encode(given.question)] * len(answers),
        answers=answers,
        seed=torch.zeros(len(answers), dtype=torch.int64),
        device=model.device,
    )
    share = estimate.log_likelihood.softmax(0)
    for row, text in enumerate(given.answers):
        value, error = float(estimate.log_likelihood[row]), float(estimate.standard_error[row])
        doubt = "exact" if error == 0.0 else f"+- {error:.2f}" if math.isfinite(error) else "one batch only"
        # Long answers have more to lose: per token they compare better, and per byte better still across tokenizers.
        per_token = value / len(answers[row])
        print(f"{value:9.2f} nats ({doubt}), {per_token:6.2f} per token, {float(share[row]):6.1%} of these: {text!r}")
    return int(estimate.log_likelihood.argmax())


if __name__ == "__main__":
    main()
