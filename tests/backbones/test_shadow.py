"""Masks beside a canvas, each in the place of one token: who sees whom, and what follows from it."""

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.backbones.attention.visibility import Visibility
from llada.denoiser import as_denoiser
from llada.process import MaskingProcess
from llada.samplers import Blocks, DualCache, Guidance, VerifyingSampler, saber, wino

V, MASK, LENGTH = 9, 8, 7
ROWS = torch.tensor([[3, 1, MASK, 4, 0, 2, 5], [6, MASK, 7, 2, MASK, 1, 1]])
COLUMNS = torch.tensor([[2, 4, 5], [1, 4, 6]])
BOTH = torch.cat([ROWS, torch.full_like(COLUMNS, MASK)], 1)


def network(num_layers: int = 2, **options: int | bool) -> BidirectionalTransformer:
    torch.manual_seed(0)
    body = BidirectionalTransformer(V, width=16, num_layers=num_layers, num_heads=2, **options)  # type: ignore[arg-type]
    return body.double().eval()


class Written(Visibility):
    """The rule as loops."""

    @property
    def mask(self) -> Tensor:
        seen = torch.zeros(2, 1, LENGTH + 3, LENGTH + 3, dtype=torch.bool)
        for row in range(2):
            for query in range(LENGTH + 3):
                for key in range(LENGTH + 3):
                    shadow = query >= LENGTH
                    seen[row, 0, query, key] = key < LENGTH or shadow
                    if shadow and key == COLUMNS[row, query - LENGTH]:
                        seen[row, 0, query, key] = False
        return seen


def test_a_shadow_sees_the_canvas_without_its_own_column_and_the_other_shadows() -> None:
    body = network()
    positions = torch.cat([torch.arange(LENGTH).expand(2, -1), COLUMNS], 1)
    expected = body.run(BOTH, positions, Written())
    torch.testing.assert_close(body.hidden(BOTH, shadow=COLUMNS), expected)
    where = torch.tensor([0, 8, 13, 19])
    torch.testing.assert_close(body.hidden(BOTH, shadow=COLUMNS, select=where), expected.flatten(0, 1)[where])


@pytest.mark.parametrize("convolution", [0, 3])
def test_the_canvas_does_not_notice(convolution: int) -> None:
    body = network(convolution=convolution)
    torch.testing.assert_close(body.hidden(BOTH, shadow=COLUMNS)[:, :LENGTH], body.hidden(ROWS))


@pytest.mark.parametrize("convolution", [0, 3])
def test_one_shadow_in_one_layer_is_the_canvas_with_a_mask_there(convolution: int) -> None:
    """With several layers the other tokens have seen what stands there. A convolution's neighbours haven't."""
    body = network(1, convolution=convolution)
    column = torch.tensor([[4], [2]])
    masked = ROWS.scatter(1, column, MASK)
    found = body(torch.cat([ROWS, torch.full_like(column, MASK)], 1), shadow=column)[:, LENGTH]
    expected = body(masked)[torch.arange(2), column[:, 0]]
    if convolution:  # the neighbours' keys are made of what stands there
        assert (found - expected).abs().max() > 1e-4
        masked = ROWS
    else:
        torch.testing.assert_close(found, expected)


def test_shadows_that_do_not_count_and_padding_are_seen_by_nobody() -> None:
    body, real = network(), torch.ones(2, LENGTH + 3, dtype=torch.bool)
    real[0, 0] = real[:, -1] = False
    other = BOTH.clone()
    other[0, 0] = other[:, -1] = 5
    same = [body.hidden(tokens, shadow=COLUMNS, attention_mask=real)[:, 1 : LENGTH + 2] for tokens in (BOTH, other)]
    torch.testing.assert_close(*same)


@pytest.mark.parametrize("options", [{"causal": True}, {"shift": True}, {"block_length": 4}], ids=str)
def test_networks_that_do_not_see_the_whole_canvas_are_refused(options: dict[str, int | bool]) -> None:
    with pytest.raises(ValueError, match="sees the whole canvas"):
        network(**options).hidden(BOTH, shadow=COLUMNS)


def test_verification_reads_the_probability_of_what_stands() -> None:
    body, sampler, process = network(), VerifyingSampler(0.2, 0.2, window=Blocks(4)), MaskingProcess(MASK)
    canvas = torch.tensor([[3, 1, 2, MASK, MASK, MASK, MASK, MASK, MASK]])
    asked: list[dict[str, Tensor]] = []
    hidden = body.hidden

    def spied(tokens: Tensor, *, shadow: Tensor | None = None, **arguments: Tensor) -> Tensor:
        assert shadow is not None
        asked.append({"tokens": tokens, "shadow": shadow})
        return hidden(tokens, shadow=shadow, **arguments)

    body.hidden = spied  # type: ignore[method-assign, assignment]
    *_, last = sampler.iterate(body, canvas, process)
    assert not bool(last.open.any())
    assert [one["shadow"].tolist() for one in asked[:1]] == [[[3, 4]]]  # blocks count from the end
    assert all(bool((one["tokens"][:, 9:] == MASK).all()) for one in asked)
    assert int(last.calls) == len(asked) <= 6


def test_rows_of_a_batch_are_what_they_are_alone() -> None:
    body, process, sampler = network(max_length=40), MaskingProcess(MASK), wino(0.2, 0.3, block_length=5)
    rows = [[3, 1, 2, 5], [4], [0, 6, MASK, 2, 2, 1, 7]]
    width = max(map(len, rows)) + 8
    tokens = torch.zeros(3, width, dtype=torch.int64)
    mask = torch.zeros(3, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, width - 8 - len(row) :] = torch.tensor(row + [MASK] * 8)
        mask[i, width - 8 - len(row) :] = True
    together = sampler(body, tokens, process, seed=4, attention_mask=mask)
    for i, row in enumerate(rows):
        alone = sampler(body, tokens[i][mask[i]][None], process, seed=4 + i)
        assert alone.tokens[0].tolist() == together.tokens[i][mask[i]].tolist(), row
        assert int(alone.calls) == int(together.calls[i])


def test_what_verification_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="use cache=NoCache"):
        VerifyingSampler(cache=DualCache())
    with pytest.raises(ValueError, match="no guidance"):
        VerifyingSampler(guidance=Guidance(1.0))
    with pytest.raises(ValueError, match="1 <= fewest <= most"):
        VerifyingSampler(fewest=30)
    with pytest.raises(ValueError, match=r"takes no argument shadow; .* such as saber"):
        wino()(lambda tokens: torch.zeros(*tokens.shape, V), ROWS, MaskingProcess(MASK))
    for sampler in (wino(), saber()):
        assert "masks tokens again" in str(sampler.likelihood_gap)
        with pytest.raises(ValueError, match="no likelihood under this sampler"):
            sampler.likelihood(network(), ROWS, MaskingProcess(MASK))
    assert as_denoiser(network()).takes("shadow")
