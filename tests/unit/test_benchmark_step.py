"""Whole loops side by side: they take turns, are stopped where a step ends, and are only compared if losses agree."""

import sys
from functools import partial
from itertools import islice

import pytest
import torch

from benchmarks import loader, loss_peers, packing, sizes, step, step_peers, where
from benchmarks.paced import Measured, Paced, take_turns
from benchmarks.step_peers import Work, encoded, ours, stock
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.training import setup
from cot_components.training.float8 import convert_to_float8

SHAPE = step.TINY_SHAPE


def small_work() -> Work:
    return step.make_work(SHAPE, "cpu", size="tiny")


def counting(order, name):
    def loop(end_of_step):
        for number in range(100):
            order.append(name)
            end_of_step(float(number))

    return loop


def test_loops_take_turns():
    order = []
    taken = take_turns({name: Paced(counting(order, name)) for name in "ab"}, steps=3, warm_up=1)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [m.loss for m in taken["a"]] == [m.loss for m in taken["b"]] == [1.0, 2.0, 3.0]
    assert all(m.seconds >= 0 for m in taken["a"])


def test_a_loop_that_fails_or_ends_says_so():
    def failing(end_of_step):
        end_of_step(0.0)
        raise KeyError("inside")

    loop = Paced(failing)
    loop.step()
    with pytest.raises(RuntimeError) as error:
        loop.step()
    assert isinstance(error.value.__cause__, KeyError)
    ended = Paced(lambda end_of_step: None)
    with pytest.raises(RuntimeError):
        ended.step()


def test_ours_and_the_stock_recipe_have_the_same_losses():
    work = small_work()
    taken = take_turns({"ours": Paced(ours(work)), step.STOCK: Paced(stock(work))}, steps=5, warm_up=5)
    step.check_losses(taken, tolerance=1e-5)
    assert len({m.loss for m in taken["ours"]}) == 5


def test_different_losses_are_not_compared():
    with pytest.raises(RuntimeError, match=r"differ from ours by 1\.0e-01"):
        step.check_losses({"ours": [Measured(1.0, 1.0)], "peer": [Measured(1.1, 1.0)]})
    with pytest.raises(RuntimeError, match="differ"):
        step.check_losses({"ours": [Measured(1.0, 1.0)], "peer": [Measured(float("nan"), 1.0)]})


def test_rows_of_the_table_and_an_absent_peer(monkeypatch):
    for sizes_of in (step.ROUNDS, step.ROW_TOKENS, step.BATCH_SIZE, step.SHAPES):
        monkeypatch.setitem(sizes_of, "cpu", sizes_of["tiny"])
    monkeypatch.setitem(sys.modules, "trl", None)
    rows = list(step.rows("cpu"))
    assert sum(row.peer_name == step.STOCK and row.ratio is not None for row in rows) == len(step.IGNORED)
    assert sum(row.peer_name == "S(f)" for row in rows) == len(step.IGNORED) - 1
    assert {row.peer_name for row in rows if row.verdict == "NOT RUN"} == {
        step.STOCK,
        step.TRL,
        *step.ON_GPU,
        step.FLOAT8,
    }


def test_the_loops_of_a_gpu_at_a_size_a_cpu_can(monkeypatch, tmp_path):
    """As a GPU starts them: compiled (graphs without kernels), float8 emulated, somebody's fused loss."""
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
    row = step.float8_row(work, taken["ours"], rounded)
    assert row.verdict == "" and 0 < float(row.note.removeprefix("loss +-")) < 0.05
    taken = {name: [m._replace(peak_bytes=2**30) for m in steps] for name, steps in taken.items()}
    assert [row.verdict for row in step.memory(taken)] == ["ok", "ok"]


def test_a_peer_that_fails_is_not_run_and_ours_must():
    def out_of_memory(end_of_step):
        raise torch.OutOfMemoryError("no memory left\nfor details ...")

    fine = partial(Paced, counting([], "a"))
    loops, absent = step.start_all({"ours": fine, "peer": partial(Paced, out_of_memory)})
    assert list(loops) == ["ours"] and absent == {"peer": "no memory left"}
    with pytest.raises(RuntimeError):
        step.start_all({"ours": partial(Paced, out_of_memory)})


def test_where_the_time_goes():
    """Parts are measured where they are, add up to no more than the step, and the functions are put back."""
    whole = torch.Tensor.backward
    found = where.profile(small_work(), rounds=2)
    assert torch.Tensor.backward is whole
    for name, others in {"ours": "loss of the stock recipe", "stock": "loss, head and its gradient"}.items():
        parts = dict(found[name])
        total, head = parts.pop("whole step"), parts.pop("of that, the head")
        assert 0 < sum(parts.values()) < total and (head > 0) == (name == "stock")
        assert all(value == 0 for part, value in parts.items() if part.startswith(others))
        assert parts["backward"] > 0 and parts["AdamW"] > 0


def test_models_alone_need_a_gpu():
    assert [row.verdict for row in sizes.rows()] == ["NOT RUN"] * len(sizes.CASES)


def test_the_share_without_label():
    work = small_work()
    assert set(step.SCHEDULE) == set(step.SHORTER_SCHEDULE) == set(step.IGNORED)
    for number, ignored in enumerate(step.SCHEDULE):
        tokens, prompt = work.rows[number * work.batch_size]
        assert prompt == max(round(ignored * len(tokens)), 1) and work.labels(number * work.batch_size)[prompt:]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")  # TRL 1.16 on transformers 5
def test_packed_rows_are_all_trained():
    padded, by_trl = packing.rows("cpu", "tiny")
    assert padded.ratio is not None and padded.gate is not None and padded.gate > 0.9
    assert by_trl.peer_name == packing.TRL_PACKED and by_trl.ratio is not None


def test_epochs_of_different_losses_are_not_compared(monkeypatch):
    work = small_work()
    lost = packing.Epoch(1.0, 4.2)
    monkeypatch.setattr(packing, "epochs", lambda *_: {"ours": packing.Epoch(1.0, 4.0), "padded": lost})
    monkeypatch.setattr(packing, "start_all", lambda *_, **__: ({}, {}))
    with pytest.raises(RuntimeError, match=r"loss of padded is 4\.2, of ours 4\.0"):
        packing.measure(work, [(0,)], [(0,)], 64)


def test_the_loop_in_python_makes_our_batches():
    data = loader.traces(40, 60)
    plans = Plans(data.lengths, batch_size=1, packed_tokens=4096)
    monkey = Batches(data, loader.TRANSFORMS, 0, packed_tokens=4096)
    plan = next(islice(plans, 1))
    (batch,) = monkey[plan].micro_batches
    tokens, labels, weights = loader.token_by_token(data, plan.micro_batches[0], plan.clock)
    assert batch.tokens[0, : len(tokens)].tolist() == tokens and batch.labels[0, : len(tokens)].tolist() == labels
    assert torch.allclose(batch.weights[0, : len(tokens)], torch.tensor(weights)) and -100 in labels


def test_rows_of_a_work_as_our_data():
    work = Work(SHAPE, [([5, 6, 7], 1), ([8, 9], 1)], 2, "cpu")
    flat = encoded(work).flat([0, 1])
    assert flat.tokens.tolist() == [5, 6, 7, 8, 9] and flat.labels.tolist() == [*work.labels(0), *work.labels(1)]
