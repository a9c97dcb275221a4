import pytest
import torch
from torch import Tensor, nn

from llada.backbones import BidirectionalTransformer
from llada.backbones.graphs import EagerRecorder, GraphedBackbone, Recorder, Recording
from llada.process import MaskingProcess
from llada.samplers import Blocks, DualCache, PrefixCache, Quota, UnmaskingSampler

MASK = 15


class CountingRecorder(Recorder):
    def __init__(self) -> None:
        self.recorded, self.replayed = 0, 0

    def record(self, run):
        self.recorded += 1
        inner = EagerRecorder().record(run)

        def replay() -> None:
            self.replayed += 1
            inner.replay()

        return Recording(replay, inner.output)


@pytest.fixture
def model() -> BidirectionalTransformer:
    torch.manual_seed(0)
    return BidirectionalTransformer(16, width=16, num_layers=2, num_heads=2).eval()


def canvas(rows: int = 2, length: int = 20, prompt: int = 8, seed: int = 0) -> Tensor:
    tokens = torch.randint(MASK, (rows, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, prompt:] = MASK
    return tokens


@pytest.mark.parametrize("cache", [DualCache(), PrefixCache(), DualCache(refresh=2)], ids=repr)
def test_decoding_through_recordings_gives_the_same_tokens(model, cache):
    sampler = UnmaskingSampler(Quota(12), window=Blocks(4), cache=cache)
    graphed = GraphedBackbone(model, EagerRecorder())
    for seed in range(3):
        tokens = canvas(seed=seed)
        expected = sampler(model, tokens, MaskingProcess(MASK)).tokens
        assert torch.equal(sampler(graphed, tokens, MaskingProcess(MASK)).tokens, expected)


def test_padded_rows_decode_the_same(model):
    tokens = canvas()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :3] = False
    sampler = UnmaskingSampler(Quota(12), window=Blocks(4), cache=DualCache())
    graphed = GraphedBackbone(model, EagerRecorder())
    for shown in (mask, mask.flip(0)):  # the second canvas must not see the first one's padding
        expected = sampler(model, tokens, MaskingProcess(MASK), attention_mask=shown).tokens
        assert torch.equal(sampler(graphed, tokens, MaskingProcess(MASK), attention_mask=shown).tokens, expected)


def test_one_recording_serves_all_blocks_and_all_canvases_of_a_shape(model):
    recorder = CountingRecorder()
    graphed = GraphedBackbone(model, recorder)
    sampler = UnmaskingSampler(Quota(12), window=Blocks(4), cache=DualCache())
    for seed in range(2):
        sampler(graphed, canvas(seed=seed), MaskingProcess(MASK))
    assert recorder.recorded == 1
    assert recorder.replayed == 2 * (12 - 3)  # each of three blocks begins with a pass over the whole canvas
    sampler(graphed, canvas(rows=1), MaskingProcess(MASK))
    assert recorder.recorded == 2


def test_only_the_newest_shapes_are_kept(model):
    """So that a conversation whose canvas grows doesn't fill the memory."""
    recorder = CountingRecorder()
    graphed = GraphedBackbone(model, recorder, kept_shapes=2)
    sampler = UnmaskingSampler(Quota(4), window=Blocks(4), cache=DualCache())

    def decode(length: int) -> Tensor:
        return sampler(graphed, canvas(length=length, prompt=length - 4), MaskingProcess(MASK)).tokens

    first = decode(12)
    decode(16), decode(12), decode(20)
    assert [shape[1] for shape in graphed._stores] == [12, 20]  # that of 16 wasn't asked for longest
    assert {key[1] for key in graphed._graphs} == {12, 20}
    assert recorder.recorded == 3
    assert torch.equal(decode(12), first)
    assert recorder.recorded == 3
    decode(16)
    assert recorder.recorded == 4
    with pytest.raises(ValueError, match="kept_shapes must be 1 or more; got 0"):
        GraphedBackbone(model, recorder, kept_shapes=0)


def test_a_region_gives_what_the_backbone_gives(model):
    tokens, region = canvas(), slice(8, 12)
    graphed = GraphedBackbone(model, EagerRecorder())
    select = torch.tensor([1, 6])
    with torch.no_grad():
        plain, lease = model.new_cache(2, 20), graphed.new_cache(2, 20)
        model.hidden(tokens, cache=plain, region=slice(0, 20))
        graphed.hidden(tokens, cache=lease, region=slice(0, 20))
        part = tokens[:, region]
        expected = model.hidden(part, cache=plain, region=region)
        found = graphed.hidden(part, cache=lease, region=region)
        torch.testing.assert_close(found, expected)
        chosen = graphed.hidden(part, cache=lease, region=region, select=select)
        torch.testing.assert_close(chosen, expected.flatten(0, 1)[select])
        for stored, kept in zip(lease.store.keys, plain.keys, strict=True):
            torch.testing.assert_close(stored, kept)


def test_calls_without_a_cache_reach_the_backbone(model):
    tokens = canvas()
    graphed = GraphedBackbone(model, EagerRecorder())
    assert torch.equal(graphed(tokens), model(tokens))
    assert graphed.hidden(tokens).requires_grad  # it can be trained as the backbone can


def test_an_older_canvas_is_refused(model):
    graphed = GraphedBackbone(model, EagerRecorder())
    older = graphed.new_cache(2, 20)
    graphed.new_cache(1, 20)  # another shape doesn't end it
    with torch.no_grad():
        graphed.hidden(canvas(), cache=older, region=slice(0, 20))
        graphed.new_cache(2, 20)
        with pytest.raises(ValueError, match="newer canvas"):
            graphed.hidden(canvas(), cache=older, region=slice(0, 20))


def test_gradients_and_unknown_keywords_are_refused(model):
    graphed = GraphedBackbone(model, EagerRecorder())
    lease = graphed.new_cache(2, 20)
    with pytest.raises(ValueError, match="gradients on"):
        graphed.hidden(canvas()[:, :4], cache=lease, region=slice(0, 4))
    with torch.no_grad(), pytest.raises(ValueError, match="sigma"):
        graphed.hidden(canvas()[:, :4], cache=lease, region=slice(0, 4), sigma=torch.ones(2))


def test_backbones_that_cannot_be_recorded_are_refused():
    with pytest.raises(ValueError, match="Linear has no new_cache"):
        GraphedBackbone(nn.Linear(2, 2))
    block_causal = BidirectionalTransformer(16, width=16, num_layers=1, num_heads=2, block_length=4)
    with pytest.raises(ValueError, match="block-causal"):
        GraphedBackbone(block_causal, EagerRecorder()).new_cache(1, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA GPU")
def test_cuda_graphs_decode_the_same(model):
    model = model.cuda()
    sampler = UnmaskingSampler(Quota(12), window=Blocks(4), cache=DualCache())
    graphed = GraphedBackbone(model)
    for seed in range(2):
        tokens = canvas(seed=seed).cuda()
        expected = sampler(model, tokens, MaskingProcess(MASK)).tokens
        assert torch.equal(sampler(graphed, tokens, MaskingProcess(MASK)).tokens, expected)
