"""LLaDA's own losses and gradients, from its own weights and masks (tests/golden/llada-tiny)."""

import pytest
import torch
from torch import Tensor

from llada.denoiser import Denoiser, as_denoiser
from llada.heads.cross_entropy import CHUNK_ELEMENTS
from llada.heads.head_loss import Chunked, HeadLoss
from llada.objectives import NELBO, IndependentMasks, llada_finetuning, llada_pretraining
from llada.objectives.objective import ObjectiveOutput
from llada.process import MaskingProcess
from tests.doubles import GivenNumbers, GivenTimes
from tests.golden_models import arrays, llada_name, tiny_llada, values

PROCESS = MaskingProcess(mask_token_id=380)


def golden_loss(kind: str, model: torch.nn.Module | Denoiser) -> ObjectiveOutput:
    golden = arrays("llada-tiny", "losses")
    objective = llada_pretraining() if kind == "pre" else llada_finetuning()
    times = GivenTimes(golden[f"{kind}_p_mask"].double().amax(1))
    batch = {"tokens": golden[f"{kind}_input_ids"]}
    if kind == "sft":
        position = torch.arange(golden["sft_input_ids"].shape[1])
        batch["maskable"] = position >= golden["sft_prompt_lengths"][:, None]
    random = GivenNumbers.of(golden[f"{kind}_uniform"])
    given = NELBO(IndependentMasks(times), objective.weight, objective.normaliser)
    return given(model, PROCESS, batch, random=random)


def test_times_of_the_named_losses_are_squeezed_like_the_reference() -> None:
    golden = arrays("llada-tiny", "losses")
    for objective in (llada_pretraining(), llada_finetuning()):
        assert isinstance(objective.design, IndependentMasks)
        t = objective.design.times(GivenNumbers.of(golden["pre_t"]))
        torch.testing.assert_close(t, golden["pre_p_mask"][:, 0].double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "key"), [("pre", "pretrain"), ("sft", "sft")])
def test_loss_and_gradients(kind: str, key: str) -> None:
    model, expected = tiny_llada(), values("llada-tiny", "losses")
    output = golden_loss(kind, model)
    assert float(output.loss) == pytest.approx(expected[f"{key}_loss"], rel=1e-5)
    output.loss.backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    reference = {llada_name(name): norm for name, norm in expected[f"{key}_grad_norm"].items()}
    assert norms.keys() == reference.keys()
    for name, norm in reference.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


@pytest.mark.parametrize(("kind", "key"), [("pre", "pretrain"), ("sft", "sft")])
def test_loss_in_float64(kind: str, key: str) -> None:
    loss = float(golden_loss(kind, tiny_llada(torch.float64)).loss)
    assert loss == pytest.approx(values("llada-tiny", "losses")[f"{key}_loss_float64"], rel=1e-7)


@pytest.mark.parametrize("kind", ["pre", "sft"])
def test_masks_and_token_cross_entropy(kind: str) -> None:
    golden = arrays("llada-tiny", "losses")
    output = golden_loss(kind, tiny_llada())
    masked = golden[f"{kind}_masked"].bool()
    assert torch.equal(output.num_scored, masked.sum(1))
    token_ce = torch.zeros(masked.shape, dtype=torch.float64)
    token_ce[masked] = golden[f"{kind}_token_ce"].double()
    torch.testing.assert_close(output.scored_nll, token_ce.sum(1), rtol=1e-5, atol=1e-5)


def test_chunks_give_the_same_loss_and_gradients() -> None:
    def gradients(head_loss: HeadLoss) -> list[Tensor]:
        model = tiny_llada()
        output = golden_loss("pre", as_denoiser(model, head_loss))
        output.loss.backward()
        return [output.loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    whole = gradients(Chunked())
    for ours, expected in zip(gradients(Chunked(7 * 384)), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert CHUNK_ELEMENTS > 7 * 384
