"""DiffusionGemma behind this library's sampler, token for token with the ``generate`` of transformers' own class."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones.canvas import CanvasBackbone
from llada.backbones.huggingface import HuggingFaceBackbone
from llada.module import DiffusionLM
from llada.objectives import PlainCrossEntropy
from llada.process import UniformProcess
from llada.random import RowRandom
from llada.samplers import Blocks, CommitAndRenoise
from llada.samplers.propose import inverse_cdf

V, C, BOUND = 23, 4, 0.5


@pytest.fixture(scope="module")
def network() -> Any:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("this version of transformers has no DiffusionGemma")
    torch.manual_seed(0)
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, global_head_dim=8, num_experts=4, top_k_experts=2, moe_intermediate_size=8,
        sliding_window=6, layer_types=["sliding_attention", "full_attention"], max_position_embeddings=64,
    )  # fmt: skip
    vision = {
        "model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8,
    }  # fmt: skip
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=C)
    made = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(40.0)  # random weights say nothing of a token
        for weight in made.model.decoder.self_conditioning.parameters():
            weight.mul_(30.0)  # nor do they heed the last step
    return made


def released(network: Any, prompts: Tensor, mask: Tensor, new: int, steps: int, seed: int) -> Tensor:
    """What ``generate`` writes with the random numbers of this library in the place of torch's."""
    module = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    length = prompts.shape[1] + new
    random = RowRandom.from_seed(seed, len(prompts))
    offset = (~mask).sum(1, keepdim=True)
    noise = UniformProcess(V).prior(torch.zeros(len(prompts), length).long(), torch.ones(len(prompts), length).bool(),
                                    random=random.fold_in(-2))  # fmt: skip
    blocks, at = new // C, {"block": -1, "step": steps}

    def positions() -> Tensor:
        start = prompts.shape[1] + at["block"] * C
        return torch.arange(start, start + C) - offset

    def streams() -> RowRandom:
        return random.fold_in(blocks - at["block"]).fold_in(at["step"])

    class Told(module.EntropyBoundSampler):  # type: ignore[misc, name-defined]
        def initialize_canvas(self, batch_size: int, device: Any) -> Tensor:
            if at["step"] < 0 or at["step"] >= steps:
                at.update(block=at["block"] + 1, step=0)
                return noise.gather(1, positions())
            return (streams().fold_in(1).uniform_at(positions()) * V).long()

        def renoise_canvas(self, accepted_canvas: Tensor, cur_step: int) -> Tensor:
            renoised: Tensor = super().renoise_canvas(accepted_canvas, cur_step)
            at["step"] += 1
            return renoised

    def drawn(probabilities: Tensor, num_samples: int) -> Tensor:
        logits = probabilities.view(len(prompts), C, V).log()
        return inverse_cdf(logits, streams().uniform_at(positions())).view(-1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EntropyBoundSampler", Told)
        patch.setattr(module.torch, "multinomial", drawn)
        config = module.DiffusionGemmaGenerationConfig(
            max_new_tokens=new, max_denoising_steps=steps, t_min=0.4, t_max=0.8,
            sampler_config=module.EntropyBoundSamplerConfig(BOUND),
        )  # fmt: skip
        tokens: Tensor = network.generate(prompts, attention_mask=mask.long(), generation_config=config).sequences
    return tokens


def test_tokens_are_those_of_the_released_generate(network: Any) -> None:
    """Two canvases behind prompts of different lengths; the last step's logits are told to the next."""
    prompts = torch.tensor([[0, 0, 5, 6, 7], [2, 9, 1, 3, 8]])
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    steps, new, seed = 6, 2 * C, 3
    model = DiffusionLM(CanvasBackbone(network), UniformProcess(V, posterior=True)).eval()
    given = torch.cat((torch.ones_like(mask), torch.zeros(2, new).bool()), 1)
    tokens = torch.nn.functional.pad(prompts, (0, new))
    real = torch.nn.functional.pad(mask, (0, new), value=True)
    found = {}
    for told in (True, False):
        sampler = CommitAndRenoise(
            steps, entropy_bound=BOUND, stop_entropy=0.0, self_conditioning=told, window=Blocks(C)
        )
        found[told] = model.generate(tokens, real, given, seed=seed, sampler=sampler)
    expected = released(network, prompts, mask, new, steps, seed)
    assert torch.equal(found[True].tokens, expected)
    assert not torch.equal(found[False].tokens, expected)
    assert (found[True].calls == 2 * steps).all()
    assert len(expected[:, 5:].unique()) > 3


def test_logits_are_the_models_own_and_train(network: Any) -> None:
    tokens = torch.tensor([[2, 9, 1, 3, 8, 4, 4, 7, 1], [2, 5, 5, 3, 8, 4, 2, 7, 0]])
    backbone = CanvasBackbone(network)
    with torch.no_grad():
        own = network(input_ids=tokens[:, :5], decoder_input_ids=tokens[:, 5:]).logits
        torch.testing.assert_close(backbone(tokens), own)
        torch.testing.assert_close(backbone(tokens[:, :5].repeat(1, 1)), backbone(tokens[:, :5]))
        some = backbone.hidden(tokens, select=torch.tensor([6, 8, 16]))
        torch.testing.assert_close(some, own[[0, 0, 1], [1, 3, 2]])
        again = CanvasBackbone(backbone.model)
        assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in backbone.parameters())
        certain = torch.nn.functional.one_hot(tokens[:, 5:], V) * 1e4
        whole = network(
            input_ids=tokens[:, :5], decoder_input_ids=tokens[:, 5:], self_conditioning_logits=certain
        ).logits
        told = backbone(tokens, previous=certain.float())
        torch.testing.assert_close(told, whole)
    maskable = (torch.arange(9) >= 5).expand(2, -1)
    loss = PlainCrossEntropy()(
        backbone,
        UniformProcess(V, posterior=True),
        {"tokens": tokens, "maskable": maskable},
        random=RowRandom.from_seed(0, 2),
    ).loss
    loss.backward()
    assert float(network.model.decoder.embed_tokens.weight.grad.abs().sum()) > 0.0
    network.zero_grad()


def test_what_has_no_canvas_is_refused_by_name(network: Any) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"reads a text and a canvas.*use llada.backbones.canvas.CanvasBackbone"):
        HuggingFaceBackbone(network)
    small = transformers.LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(ValueError, match=r"LlamaForCausalLM takes no canvas.*use HuggingFaceBackbone"):
        CanvasBackbone(transformers.LlamaForCausalLM(small))
    backbone, tokens = CanvasBackbone(network), torch.ones(1, 9, dtype=torch.long)
    for select, message in (
        (None, "say which positions"),
        (torch.tensor([2, 6]), "the positions are of 2 canvases of 4 tokens"),
        (torch.tensor([0]), "a canvas needs a text before it"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.hidden(tokens, select=select)
