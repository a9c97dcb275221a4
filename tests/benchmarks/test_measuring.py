"""What the benchmarks count and how they report; that each of them runs is in test_running.py."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ancestral, gpu, gpu_decode, gpu_train, models, naive, train_memory, train_step
from benchmarks.gpu_card import Machine, Rates
from benchmarks.gpu_decode import Decoder
from benchmarks.results import Goal, Plot, Result, must_equal


@pytest.fixture
def model():
    return models.build_on("cpu", torch.float32, "tiny", attention="plain")  # torch counts no fused attention on a CPU


def test_body_flops_are_those_that_torch_counts(model):
    tokens = torch.randint(499, (2, 16))
    for last in (32, 5):
        with FlopCounterMode(display=False) as counter:
            model.hidden(tokens, select=torch.arange(last))
        assert models.body_flops(model, 2, 16, last) == counter.get_total_flops()


def test_flops_of_a_cached_call_with_its_head(model):
    tokens = torch.randint(499, (1, 16))
    with torch.no_grad():
        cache = model.new_cache(1, 16)
        model.hidden(tokens, cache=cache, region=slice(0, 16))
        with FlopCounterMode(display=False) as counter:
            model.head(model.hidden(tokens[:, 4:8], cache=cache, region=slice(4, 8)))
    expected = models.body_flops(model, 1, 4, 4, keys=16) + models.head_flops(model, 4)
    assert expected == counter.get_total_flops()


def test_bytes_of_a_step(model):
    weights = sum(p.numel() for name, p in model.named_parameters() if name != "embedding.weight")
    assert models.step_bytes(model, rows=3, keys=7) == 4 * (weights + 3 * 7 * 2 * 2 * 1 * 16)  # k and v, layers, heads


@pytest.mark.parametrize(
    ("shape", "with_tables", "without"),
    [("LLaDA 1B as published", 1.49, 0.97), ("LLaDA 1B", 1.49, 0.97), ("LLaDA 8B", 8.02, 6.98)],
)
def test_shapes_have_the_published_numbers_of_parameters(shape, with_tables, without):
    with torch.device("meta"):
        model = models.BidirectionalTransformer(**models.SHAPES[shape])
    total = sum(p.numel() for p in model.parameters()) / 1e9
    tables = 2 * model.embedding.weight.numel() / 1e9
    assert total == pytest.approx(with_tables, abs=0.01)
    assert total - tables == pytest.approx(without, abs=0.01)


def test_floors_are_the_larger_of_bytes_and_operations():
    machine = Machine("cpu", 1.0)
    slow_memory = Decoder(machine, Rates(1e30, 1e3, 1.0, None), tiny=True)
    assert slow_memory.floor(2, 8) == models.step_bytes(slow_memory.model, 2, 64) / 1e3
    slow_arithmetic = Decoder(machine, Rates(1e3, 1e30, 1.0, None), tiny=True)
    flops = models.body_flops(slow_arithmetic.model, 2, 8, 16, keys=64) + models.head_flops(slow_arithmetic.model, 16)
    assert slow_arithmetic.floor(2, 8) == flops / 1e3
    # Two blocks of 8, four tokens per step: each has one pass over the canvas and one over the block.
    expected = 2 * (slow_memory.floor(1, 64) + slow_memory.floor(1, 8))
    assert slow_memory.write_floor(1, 4) == pytest.approx(expected)


def test_no_part_begins_without_time_or_memory(monkeypatch):
    machine = Machine("cpu", 1.0)
    assert machine.may("a", 0.5, 100)
    assert not machine.may("b", 2.0, 1)
    monkeypatch.setattr(machine, "free_gigabytes", lambda: 10.0)
    assert not machine.may("c", 0.5, 20)
    assert machine.left_out == ["b: 1.0 minutes left, 2 needed", "c: 10 GB free, 20 needed"]


def test_a_part_that_fails_is_noted():
    machine = Machine("cpu", 1.0)

    def fail():
        raise RuntimeError("no kernel\nfor this card")

    assert machine.attempt("a", lambda: 3) == 3
    assert machine.attempt("b", fail) is None
    assert machine.left_out == ["b failed: RuntimeError: no kernel"]
    assert machine.attempt("c", lambda: 1 / 0) is None
    assert machine.left_out[1] == "c failed: ZeroDivisionError: division by zero"


def test_rows_are_told_at_once_and_none_is_lost_by_what_follows(tmp_path, capsys):
    def rows():
        yield {"ms": 1.5}
        assert json.loads((tmp_path / "log.jsonl").read_text()) == {"table": "calls", "ms": 1.5}
        yield {"ms": 2.5}
        raise TypeError("varlen_attn() got an unexpected keyword argument")

    machine = Machine("cpu", 1.0, tmp_path / "log.jsonl")
    assert machine.collect("calls", rows()) == [{"ms": 1.5}, {"ms": 2.5}]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("ms") for line in lines] == [1.5, 2.5, None]
    assert "calls failed: TypeError: varlen_attn() got an unexpected" in lines[2]["left out"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines


def test_the_gpu_program_goes_on_after_any_error(monkeypatch):
    def broken(*_, **__):
        raise TypeError("not on this torch")

    monkeypatch.setitem(gpu_train.LAYOUTS, "mixed lengths, packed", broken)
    monkeypatch.setattr(Decoder, "calls", broken)
    result = gpu.main(["--device", "cpu", "--tiny", "--rounds", "1"])
    assert [row["tiny training"] for row in result.extra["Training"]] == [
        "rows of one length", "mixed lengths, padded", "rows of one length, compiled",
    ]  # fmt: skip
    assert result.extra["Calls"] == []
    failed = [line["what and why"] for line in result.extra["Left out"]]
    assert sum("not on this torch" in line for line in failed) >= 3


def test_caches_that_differ_are_told_and_measured(monkeypatch):
    machine = Machine("cpu", 1.0)
    decoder = Decoder(machine, Rates(1e12, 1e9, 1e12, None), tiny=True)
    calls = Decoder.calls
    monkeypatch.setattr(Decoder, "calls", lambda self, rows: {
        name: ((lambda call=call, name=name: call() + (name == "dual cache")), queries)
        for name, (call, queries) in calls(self, rows).items()
    })  # fmt: skip
    assert len(list(gpu_decode.measure_calls(decoder, 1))) == 8
    assert len(machine.left_out) == 1
    assert machine.left_out[0].startswith("DOUBTFUL: dual cache differs")


def test_the_tokens_of_each_layout():
    full, packed, padded = (layout(3, 32, 50, "cpu") for layout in gpu_train.LAYOUTS.values())
    assert full.lengths == [32] * 3
    assert sum(packed.lengths) == packed.tokens.numel()
    segments = packed.arguments["segment_ids"]
    assert int(sum(len(row.unique()) for row in segments)) == len(packed.lengths)
    assert padded.arguments["attention_mask"].sum(1).tolist() == padded.lengths
    assert len(padded.lengths) == 3


def test_a_batch_that_does_not_fit_is_halved(model):
    tried = []

    def layout(rows, length, vocab_size, device):
        tried.append(rows)
        if rows > 1:
            raise torch.OutOfMemoryError
        return gpu_train.full(rows, length, vocab_size, device)

    rates = Rates(1e12, 1e9, 1e12, 2e12)
    line = gpu_train._largest(Machine("cpu", 1.0), rates, lambda: model, layout, 8, [4, 2, 1], repeats=1)
    assert tried == [4, 2, 1]
    assert line["rows"] == 1
    assert line["MFU %"] == pytest.approx(line["% of own matmul"] / 2)
    assert gpu_train._largest(Machine("cpu", 1.0), rates, lambda: model, layout, 8, [4], repeats=1) is None


def test_goals_of_a_gpu_need_its_measurements():
    training = [
        {"1B training": "rows of one length, compiled", "MFU %": 60.0},
        {"1B training": "mixed lengths, packed, compiled", "MFU %": 54.0},
    ]
    calls = [{"a call": "dual cache, graph", "batch": n, "of floor": 1.1, "ms": 4.0 + 0.1 * n} for n in (1, 5)]
    assert [goal.met for goal in gpu.goals(training, calls)] == [True, False, True, True]
    assert gpu.goals([{**training[0], "MFU %": ""}], []) == []


def test_toy_figures_are_never_written(tmp_path):
    with pytest.raises(SystemExit, match="toy size"):
        gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)])


def test_the_laws_of_other_samplers_differ(monkeypatch):
    def uneven(model, rows, length, steps, mask):
        return torch.zeros(rows, length, dtype=torch.int64), 1

    ancestral.check_law(rows=512)
    monkeypatch.setattr(naive, "ancestral", uneven)
    with pytest.raises(SystemExit, match="differ in law"):
        ancestral.check_law(rows=512)


def test_a_loss_that_differs_is_not_timed(monkeypatch):
    problem = train_step.Problem(50, 2, 8, 16, 1)
    assert train_step.check(problem) < 1e-6
    right = naive.training_loss
    monkeypatch.setattr(naive, "training_loss", lambda *arguments: 1.001 * right(*arguments))
    with pytest.raises(SystemExit, match="gradient differs"):
        train_step.check(problem)


@pytest.mark.skipif(not train_memory.CLEAR.exists(), reason="needs Linux's /proc")
def test_peak_memory_is_that_of_the_call_alone():
    size = 64 << 20
    torch.ones(2 * size, dtype=torch.uint8)  # an earlier peak
    assert train_memory.peak_above(lambda: torch.ones(size, dtype=torch.uint8)) == pytest.approx(size, rel=0.1)


def test_goals():
    assert Goal("ratio", 2.1, 2.0).met
    assert not Goal("share", 0.6, 0.55, most=True).met
    assert Goal("share", 0.6, 0.55, most=True).line() == ["share: at most 0.55", "0.6", "**no**"]
    assert must_equal("loss", 1e-6, 1e-5) == 1e-6
    for difference in (1e-4, float("nan")):
        with pytest.raises(SystemExit, match="loss differs"):
            must_equal("loss", difference, 1e-5)


def test_a_page_holds_command_hardware_tables_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--vocab", "5", "--out", "docs", "--note", "beside other work"])
    rows = [{"side": side, "size": size, "s": 1234.5 * size} for side in ("a", "b") for size in (1, 2)]
    plot = Plot("size", "s", "side", "Times", goal=2.0)
    result = Result(
        "x", "Heading.\n\nWhat is compared.", rows, plot, [Goal("s", 1.0, 0.5)], "Busy.", {"More": rows[:1]}
    )
    page = result.page()
    for part in (
        "# Heading\n\nWhat is compared.\n\n",
        f"torch {torch.__version__}",
        "Busy.\n\n```bash\npython -m benchmarks.x --vocab 5\n```",
        "## More\n\n| side | size | s |",
        "| b | 2 | 2,469 |",
        "| s: at least 0.5 | 1 | yes |",
        "![Times](x.svg)",
    ):
        assert part in page
    assert "svg" not in Result("x", "Heading.", rows[:2], plot).page(), "two numbers need no picture"
    bars = Plot("size", "s", title="Bars", goal=2.0)
    bars.save(rows, tmp_path / "bars.svg")
    assert all(f">{number}<" in (tmp_path / "bars.svg").read_text() for number in ("1,234", "2,469")), "at the bars"
    plot.save(rows, tmp_path / "x.svg")
    picture = (tmp_path / "x.svg").read_text()
    assert "Times" in picture
    assert len(picture) < 50_000
