"""How LLaDA's published scores were measured, one entry per model and task, to be checked by one command each.

    llada evaluate --protocol llada-8b-base/gsm8k

An entry holds what was published and nothing else: where the sources are silent the field is None, and the task's own
setting holds. Scores are percent.

Source: EVAL.md and eval_llada.sh (later eval_llada_lm_eval.sh) in LLaDA's repository, whose tables are those of arXiv
2502.09992 and 2505.19223 measured again with open tools. The base model's scores come from this harness. Those of the
instruct models come from OpenCompass, whose prompts differ; the same file found this harness markedly lower for another
instruction-tuned model. They are marked by ``same_harness=False``: a deviation from them says little.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the table can be read without torch, which these need
    from llada.metrics import ConditionalLikelihood
    from llada.samplers import UnmaskingSampler

EOS, EOT = 126081, 126348
"""LLaDA's ends of a text and of a turn."""
BASE, INSTRUCT, LLADA_1_5 = "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-1.5"


class EndRule(NamedTuple):
    """What is done about ends of text in low-confidence decoding, which would write them first.

    Attributes:
        suppress_tokens: tokens that are never written (the reference's ``logits_eos_inf``).
        last: tokens whose confidence counts as 0 (``confidence_eos_eot_inf``).
    """

    suppress_tokens: tuple[int, ...] = ()
    last: tuple[int, ...] = ()


NO_RULE, NEVER, LAST = EndRule(), EndRule(suppress_tokens=(EOS,)), EndRule(last=(EOS, EOT))


@dataclass(frozen=True)
class Protocol:
    """How one score was measured.

    Args:
        checkpoint: name on the hub.
        task: name in the Language Model Evaluation Harness.
        score: published, in percent.
        num_fewshot: examples in the prompt; None for the task's own number.
        num_samples: Monte-Carlo copies per likelihood; None for tasks that are answered with text.
        copies: how many copies are masked together, LLaDA's batch size; a divisor of ``num_samples``.
        guidance: scale of classifier-free guidance.
        num_new_tokens: how many tokens an answer has; None for tasks that ask for likelihoods.
        block_length: tokens per block of semi-autoregressive decoding; None for the whole canvas at once.
        ends: what is done about tokens that end a text.
        chat: whether prompts go through the chat template.
        same_harness: whether the score was measured with this harness.
        runs_code: whether the task runs what the model wrote.

    Examples:
        >>> from llada.evaluation import Protocol
        >>> protocol = Protocol("GSAI-ML/LLaDA-8B-Base", "arc_challenge", score=45.9, num_samples=128)
        >>> protocol.estimator().num_samples
        128
    """

    checkpoint: str
    task: str
    score: float
    num_fewshot: int | None = None
    num_samples: int | None = None
    copies: int = 8
    guidance: float = 0.0
    num_new_tokens: int | None = None
    block_length: int | None = None
    ends: EndRule = field(default=NO_RULE)
    chat: bool = False
    same_harness: bool = True
    runs_code: bool = False

    def estimator(self, rows_per_call: int = 32) -> "ConditionalLikelihood":
        """How likelihoods are estimated.

        Args:
            rows_per_call: masked copies per model call; changes speed and memory only.
        """
        from llada.metrics import ConditionalLikelihood, StratifiedCounts
        from llada.samplers import Guidance

        samples = 1 if self.num_samples is None else self.num_samples
        return ConditionalLikelihood(
            samples,
            min(self.copies, samples),
            StratifiedCounts(),
            Guidance(self.guidance),
            rows_per_call=rows_per_call,
        )

    def sampler(self) -> "UnmaskingSampler | None":
        """How answers are written: one token per call by confidence, greedily; None for tasks without answers."""
        from llada.samplers import Blocks, Confidence, Guidance, Proposal, Quota, UnmaskingSampler, WholeCanvas

        if self.num_new_tokens is None:
            return None
        return UnmaskingSampler(
            Quota(self.num_new_tokens),
            Confidence(without=self.ends.last),
            proposal=Proposal(0.0, suppress_tokens=self.ends.suppress_tokens),
            window=WholeCanvas() if self.block_length is None else Blocks(self.block_length),
            guidance=Guidance(self.guidance),
        )


def _likelihood(task: str, shots: int, score: float, guidance: float = 0.0) -> Protocol:
    return Protocol(BASE, task, score, num_fewshot=shots, num_samples=128, guidance=guidance)


def _one_token(task: str, score: float) -> Protocol:
    return Protocol(BASE, task, score, num_fewshot=5, num_samples=1, copies=1)


def _base_text(task: str, length: int, score: float, *, runs_code: bool = False) -> Protocol:
    return Protocol(BASE, task, score, num_new_tokens=length, runs_code=runs_code)


def _chat(
    checkpoint: str,
    task: str,
    length: int,
    block: int | None,
    ends: EndRule,
    score: float,
    *,
    runs_code: bool = False,
) -> Protocol:
    return Protocol(
        checkpoint,
        task,
        score,
        num_new_tokens=length,
        block_length=block,
        ends=ends,
        chat=True,
        same_harness=False,
        runs_code=runs_code,
    )


_GUIDED = {
    "gpqa": (_likelihood("gpqa_main_n_shot", 5, 25.2), _likelihood("gpqa_main_n_shot", 5, 26.1, 0.5)),
    "truthfulqa": (_likelihood("truthfulqa_mc2", 0, 46.1), _likelihood("truthfulqa_mc2", 0, 46.4, 2.0)),
    "arc-challenge": (_likelihood("arc_challenge", 0, 45.9), _likelihood("arc_challenge", 0, 47.9, 0.5)),
    "hellaswag": (_likelihood("hellaswag", 0, 70.5), _likelihood("hellaswag", 0, 72.5, 0.5)),
    "piqa": (_likelihood("piqa", 0, 73.6), _likelihood("piqa", 0, 74.4, 0.5)),
}
"""Without guidance, as in the paper's table, and with it."""
_TEXT = {  # with 1024, 512 and 256 new tokens
    "bbh": ("bbh", (49.7, 50.4, 45.0)),
    "gsm8k": ("gsm8k", (70.3, 70.8, 70.0)),
    "math": ("minerva_math", (31.4, 30.9, 30.3)),
    "humaneval": ("humaneval", (35.4, 32.9, 32.9)),
    "mbpp": ("mbpp", (40.0, 39.2, 40.2)),
}
_CODE = {"humaneval", "mbpp"}

PROTOCOLS: dict[str, Protocol] = {
    **{f"llada-8b-base/{name}": plain for name, (plain, _) in _GUIDED.items()},
    **{f"llada-8b-base/{name}-guided": guided for name, (_, guided) in _GUIDED.items()},
    "llada-8b-base/winogrande": _likelihood("winogrande", 5, 74.8),
    "llada-8b-base/mmlu": _one_token("mmlu", 65.9),
    "llada-8b-base/cmmlu": _one_token("cmmlu", 69.9),
    "llada-8b-base/ceval": _one_token("ceval-valid", 70.5),
    **{
        f"llada-8b-base/{name}{suffix}": _base_text(task, length, score, runs_code=name in _CODE)
        for name, (task, scores) in _TEXT.items()
        for (suffix, length), score in zip((("", 1024), ("-512", 512), ("-256", 256)), scores, strict=True)
    },
    "llada-8b-instruct/mmlu": _chat(INSTRUCT, "mmlu_generative", 3, None, NO_RULE, 65.4),
    "llada-8b-instruct/mmlu-pro": _chat(INSTRUCT, "mmlu_pro", 256, None, NO_RULE, 36.6),
    "llada-8b-instruct/arc-challenge": _chat(INSTRUCT, "arc_challenge_chat", 512, None, NO_RULE, 89.2),
    "llada-8b-instruct/gsm8k": _chat(INSTRUCT, "gsm8k", 512, None, LAST, 68.8),
    "llada-8b-instruct/gsm8k-blocks": _chat(INSTRUCT, "gsm8k", 256, 8, NO_RULE, 78.9),
    "llada-8b-instruct/math": _chat(INSTRUCT, "minerva_math", 512, None, LAST, 29.6),
    "llada-8b-instruct/math-blocks": _chat(INSTRUCT, "minerva_math", 512, 64, NO_RULE, 42.7),
    "llada-8b-instruct/gpqa": _chat(INSTRUCT, "gpqa_main_generative_n_shot", 64, None, LAST, 32.3),
    "llada-8b-instruct/humaneval": _chat(INSTRUCT, "humaneval_instruct", 512, None, NEVER, 47.0, runs_code=True),
    "llada-8b-instruct/mbpp": _chat(INSTRUCT, "mbpp", 256, None, LAST, 39.6, runs_code=True),
    "llada-1.5/gsm8k": _chat(LLADA_1_5, "gsm8k", 256, 16, LAST, 83.6),
    "llada-1.5/math": _chat(LLADA_1_5, "minerva_math", 1024, 128, LAST, 42.3),
    "llada-1.5/gpqa": _chat(LLADA_1_5, "gpqa_main_generative_n_shot", 256, 16, NO_RULE, 34.8),
    "llada-1.5/humaneval": _chat(LLADA_1_5, "humaneval_instruct", 512, 32, LAST, 51.2, runs_code=True),
    "llada-1.5/mbpp": _chat(LLADA_1_5, "mbpp", 512, 32, LAST, 42.6, runs_code=True),
    "llada-1.5/ifeval": _chat(LLADA_1_5, "ifeval", 256, 16, LAST, 65.2),
}
"""Name -> protocol: the model, a slash, the task, and what sets it apart from the paper's own setting."""
