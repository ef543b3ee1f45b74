"""The benchmark command, and each benchmark once at a size of seconds: both sides agree, a difference is noticed."""

import json
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import ROOT, must, run

import benchmarks
import benchmarks.__main__ as command
from benchmarks import (
    backbones,
    icot,
    loader,
    loss_peers,
    packing,
    pretrained,
    report,
    scoring,
    sizes,
    step,
    step_peers,
    surgery,
    table,
    where,
)
from benchmarks.measure import seconds
from benchmarks.paced import Measured, Paced, take_turns
from benchmarks.report import Row
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.models.adapter import adapt
from cot_components.models.families.gpt2 import gpt2
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.training import setup
from cot_components.training.float8 import convert_to_float8

KEPT = Row("time", "peer", "s", 1.0, 2.0, 0.6)
MISSED = Row("time", "peer", "s", 1.0, 2.0, 0.4)
ABSENT = Row("time", "peer", "s", note="not installed")
INFORMS = Row("time", "peer", "s", 3.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([KEPT, INFORMS], [], 0),
        ([KEPT, MISSED], [], 1),
        ([KEPT, ABSENT], [], 0),
        ([KEPT, ABSENT], ["--strict"], 1),
        ([ABSENT], [], 0),
    ],
)
def test_verdicts_exit_code_and_file(rows, options, code, tmp_path, monkeypatch, capsys):
    assert [row.verdict for row in (KEPT, MISSED, ABSENT, INFORMS)] == ["ok", "MISSED", "NOT RUN", ""]
    assert Row("speed", "peer", "x", 6.0, 2.0, 4.0, at_most=False).verdict == "MISSED"
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"some": "some.module"})
    monkeypatch.setattr(command, "BENCHMARKS", {"some": "some.module"})
    monkeypatch.setattr(command.importlib, "import_module", lambda name: SimpleNamespace(rows=lambda: rows))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    threads = torch.get_num_threads()
    assert command.main(["some", *options]) == code
    torch.set_num_threads(threads)
    assert rows[0].line() in capsys.readouterr().out
    written = tmp_path / "some_cpu.json"
    assert written.exists() == (rows != [ABSENT]), "what was not measured leaves no file"
    if written.exists():
        kept = json.loads(written.read_text())
        assert [row["verdict"] for row in kept["rows"]] == [row.verdict for row in rows]
        assert "benchmarks some" in kept["command"] and kept["versions"]["torch"] == torch.__version__


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["lost"])
    assert stopped.value.code == 2 and "lost" in capsys.readouterr().err


def test_the_page_shows_the_kept_results():
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.rewritten(page) == page, "python -m benchmarks.table writes the tables"
    missed = [line for line in page.splitlines() if "**MISSED**" in line]
    files = [*report.RESULTS.glob("*.json"), *table.GPU_RESULTS.glob("*.json")]
    kept = [json.loads(file.read_text()).get("rows", []) for file in files]
    assert len(missed) == sum(row["verdict"] == "MISSED" for rows in kept for row in rows)
    assert ("No gate is missed" in page) == (not missed)


def test_steps_take_turns_and_one_that_is_far_behind_is_taken_once():
    order = []

    def busy(name, turns):
        order.append(name)
        for _ in range(turns):
            sum(range(1000))

    steps = {name: partial(busy, name, turns) for name, turns in {"a": 20, "b": 20, "slow": 2000}.items()}
    found = seconds(steps, "cpu", rounds=3, warm=True, far=20)
    assert [name for name in order if name != "slow"] == ["a", "b"] * 3 and order.count("slow") == 1
    assert found["slow"] > 20 * found["a"]


def test_peak_memory_is_what_a_step_takes_at_most():
    """In a process of its own: memory that other tests have freed would serve the step unseen."""
    code = """
import torch
from benchmarks.measure import peak_bytes
mib, u8 = 2**20, torch.uint8
def step():
    first = torch.ones(32 * mib, dtype=u8); second = torch.ones(16 * mib, dtype=u8); del first, second
    torch.ones(24 * mib, dtype=u8)
torch.ones(512, 512) @ torch.ones(512, 512)  # OpenMP threads exist before the fork
print(peak_bytes(step, "cpu") / mib, peak_bytes(step, "cpu", rehearsal=lambda: torch.ones(mib, dtype=u8)) / mib)
"""
    told = must(run(sys.executable, "-W", "ignore", "-c", code, cwd=ROOT, env={"OMP_NUM_THREADS": "2"}))
    assert len(told.split()) == 2 and all(47 <= float(peak) <= 52 for peak in told.split())


def small_work():
    return step.make_work(step.TINY_SHAPE, "cpu", size="tiny")


def test_loops_take_turns_and_are_compared_where_losses_agree():
    order = []

    def counting(name, end_of_step):
        for number in range(100):
            order.append(name)
            end_of_step(float(number))

    taken = take_turns({name: Paced(partial(counting, name)) for name in "ab"}, steps=3, warm_up=1)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [m.loss for m in taken["a"]] == [m.loss for m in taken["b"]] == [1.0, 2.0, 3.0]
    for loss in (1.1, float("nan")):
        with pytest.raises(RuntimeError, match="differ"):
            step.check_losses({"ours": [Measured(1.0, 1.0)], "peer": [Measured(loss, 1.0)]})


def test_a_peer_that_fails_is_not_run_and_ours_must():
    def failing(end_of_step):
        raise torch.OutOfMemoryError("no memory left\nfor details ...")

    fine = partial(Paced, lambda end_of_step: end_of_step(0.0))
    loops, absent = step.start_all({"ours": fine, "peer": partial(Paced, failing)})
    assert list(loops) == ["ours"] and absent == {"peer": "no memory left"}
    with pytest.raises(RuntimeError):
        step.start_all({"ours": partial(Paced, failing)})


def test_whole_steps_and_an_absent_peer(monkeypatch):
    for sizes_of in (step.ROUNDS, step.ROW_TOKENS, step.BATCH_SIZE, step.SHAPES):
        monkeypatch.setitem(sizes_of, "cpu", sizes_of["tiny"])
    monkeypatch.setitem(sys.modules, "trl", None)
    rows = list(step.rows("cpu"))
    assert sum(row.peer_name == step.STOCK and row.ratio is not None for row in rows) == len(step.IGNORED)
    assert step.TRL in {row.peer_name for row in rows if row.verdict == "NOT RUN"}


def test_the_loops_of_a_gpu_at_a_size_a_cpu_can(monkeypatch, tmp_path):
    """As `--device cuda` starts them: compiled (graphs without kernels), float8 emulated, another fused loss."""
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "eager")
    monkeypatch.setattr(setup, "convert_to_float8", partial(convert_to_float8, emulate=True))
    monkeypatch.setattr(step_peers, "check_float8", lambda *args, **settings: None)
    monkeypatch.setattr(step, "cut_cross_entropy", lambda: loss_peers.naive)
    work = small_work()
    made = step.makers(work, tmp_path, on_gpu=True)
    del made[step.TRL], made[step.TRL_LIGER]  # need packages that tests do not
    loops, absent = step.start_all(made)
    assert absent == {} and list(loops) == ["ours", step.STOCK, step.CCE, step.FLOAT8]
    taken = take_turns(loops, steps=len(step.SCHEDULE), warm_up=step.WARM_UP - 1)
    rounded = taken.pop(step.FLOAT8)
    step.check_losses(taken, tolerance=1e-5)
    assert 0 < float(step.float8_row(work, taken["ours"], rounded).note.removeprefix("loss +-")) < 0.05


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")  # TRL 1.16 on transformers 5
def test_a_pretrained_model_beside_both_trainers(monkeypatch):
    """In fp32 and bf16, with the same losses, else `rows` stops; compiled, and no number of labels compiles again."""
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "eager")
    found = list(pretrained.rows("cpu", "tiny"))
    assert all(row.ratio is not None for row in found)
    for peer in (pretrained.TRAINER, pretrained.TRL):
        gates = [row.gate for row in found if row.peer_name == peer and row.unit == ""]
        assert gates == sorted(gates[:4]) * 2 and gates[0] == 1.3 < gates[1], "1.3 S(f), in each number format"
    recompiled = [row for row in found if row.case.startswith("recompilations")]
    assert [row.verdict for row in recompiled] == ["ok", "ok"] and all(row.peer >= 1 for row in recompiled)
    (memory,) = [row for row in found if row.unit == "MiB"]
    assert memory.gate == 1.0 and memory.at_most


def test_a_cpu_without_units_for_bf16_says_so(monkeypatch):
    monkeypatch.setattr(pretrained, "multiplies_in_bf16", lambda: False)
    monkeypatch.setattr(pretrained, "model_folder", lambda size, scratch: scratch)
    monkeypatch.setattr(pretrained, "make_work", lambda *_: small_work())
    monkeypatch.setattr(pretrained, "memory", lambda *_: ())
    monkeypatch.setattr(pretrained, "speed", lambda work, products, *_: [Row(str(products), "peer", "", 2.0, 1.0)])
    fp32, *missing = pretrained.rows("cpu")
    assert fp32.case == "torch.float32" and {row.verdict for row in missing} == {"NOT RUN"}
    assert all("amx_bf16" in row.note for row in missing) and len(missing) == 3


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")  # transformers 5
def test_where_the_time_goes():
    found = where.profile(small_work(), rounds=2)
    for name in ("ours", "stock"):
        parts = dict(found[name])
        assert 0 < parts["backward"] + parts["AdamW"] < parts["whole step"]
    for parts in where.profile_pretrained("tiny").values():
        assert all(parts[kind] > 0 for kind in ("products", "attention", "AdamW"))


def test_models_alone_need_a_gpu():
    assert {row.verdict for row in sizes.rows()} == {"NOT RUN"}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")  # TRL 1.16 on transformers 5
def test_packed_rows_are_all_trained(monkeypatch):
    assert [row.ratio is not None for row in packing.rows("cpu", "tiny")] == [True, True]
    lost = {"ours": packing.Epoch(1.0, 4.0), "padded": packing.Epoch(1.0, 4.2)}
    monkeypatch.setattr(packing, "epochs", lambda *_: lost)
    monkeypatch.setattr(packing, "start_all", lambda *_, **__: ({}, {}))
    with pytest.raises(RuntimeError, match="padded"):
        packing.measure(small_work(), [(0,)], [(0,)], 64)


def test_the_loop_in_python_makes_our_batches():
    data = loader.traces(40, 60)
    plan = Plans(data.lengths, batch_size=1, packed_tokens=4096).plan(0)
    (batch,) = Batches(data, loader.TRANSFORMS, 0, packed_tokens=4096)[plan].micro_batches
    tokens, labels, weights = loader.token_by_token(data, plan.micro_batches[0], plan.clock)
    assert batch.tokens[0, : len(tokens)].tolist() == tokens and batch.labels[0, : len(tokens)].tolist() == labels
    assert torch.allclose(batch.weights[0, : len(tokens)], torch.tensor(weights)) and -100 in labels


def test_both_backbones_have_the_same_losses():
    """Else `rows` stops: their times could not be compared."""
    priced = list(backbones.rows("cpu", "tiny"))
    assert len(priced) == 4 and all(row.ratio > 0 and row.verdict == "" for row in priced)


def test_stepwise_internalisation():
    (row,) = icot.rows("cpu", "tiny")
    assert row.ours > 0 and row.peer > 0
    model = adapt(gpt2(vocab_size=300, num_layers=1, num_heads=4, embed_dim=16, max_seq_len=64, dropout=0.0))
    ours, theirs = icot.steps(model, icot.transformers_model(model), icot.TINY, "cpu")
    with pytest.raises(AssertionError):
        icot.check_equal(ours(update=False), theirs(update=False) * 1.01)


def test_scoring(monkeypatch):
    assert [row.ours > 0 and row.peer > 0 for row in scoring.rows("cpu", "tiny")] == [True] * 3
    _, (_, model, columns), *_ = scoring.cases("cpu", scoring.TINY_SHAPE)
    right = scoring.model_scores

    def shifted(*args, **settings):
        score = right(*args, **settings)
        return lambda flat: {name: np.roll(values, 1) for name, values in score(flat).items()}

    monkeypatch.setattr(scoring, "model_scores", shifted)
    with pytest.raises(AssertionError):
        scoring.check_equal(model, columns, scoring.some_rows())


def test_surgery():
    *_, syncs = surgery.rows("cpu", "tiny")
    assert syncs.ours == 0 and syncs.verdict == "ok" and syncs.peer > 100
    _, finished, peer = surgery.workers(ICoTFormat(compact_tokenizer().text), 3, 4, "cpu")
    ours, theirs = finished(), peer()
    surgery.check_equal(ours, theirs)
    for name in ("tokens", "labels"):
        changed = getattr(ours, name).clone()
        changed[5, 3] += 1
        with pytest.raises(AssertionError):
            surgery.check_equal(replace(ours, **{name: changed}), theirs)
