"""The curriculum of a run: when the optimizer is reset, what a log says, and that batches agree with both."""

import inspect
import pydoc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rows import make_flat
from torch.utils.data import DataLoader

from cot_components.clock import Clock
from cot_components.curriculum import Internalisation, NoCurriculum, Released, Stepwise
from cot_components.data.bad_rows import DropReport
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.rows.batches import Batches
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.store import Rows
from cot_components.datasets import ReasoningDataset, reasoning_dataset
from cot_components.errors import UserError
from cot_components.models import hf_tokenizer
from cot_components.roles import Role
from cot_components.schedules import REMOVE_ALL
from cot_components.training.batching import load_stages
from cot_components.training.distributed import World
from cot_components.training.setup import Run
from cot_components.transforms import Cap

NO_SMOOTHING = float("inf")
STEP_END = 7
BYTES = SimpleNamespace(tokenizer=SimpleNamespace(pad_id=0))


def rows_with(thoughts: list[int]) -> Rows:
    """Rows `p S thought S a S` with thoughts of these lengths; every third thought token ends a step."""
    before, after = [Role.PROMPT] * 2, [Role.THINK_CLOSE, Role.ANSWER, Role.ANSWER]
    flat = make_flat([[*before, *[Role.THOUGHT] * n, *after] for n in thoughts])
    tokens = [[1, 9, *[STEP_END if i % 3 == 2 else 3 for i in range(n)], 9, 4, 9] for n in thoughts]
    ids = 10 * np.arange(len(thoughts))[::-1]
    return Rows(np.concatenate(tokens).astype(np.int32), flat.roles, flat.counters, flat.weights, flat.row_start, ids)


def run_of(thoughts, *, plans=None, build=Stepwise, **knobs) -> tuple[Internalisation, Plans, Rows]:
    rows = rows_with(thoughts)
    made = Plans(rows.lengths, **{"batch_size": 4, "epochs": 8, **(plans or {})})
    step_ends = knobs.pop("step_ends", ())
    return build(**knobs)(made, rows, step_ends), made, rows


def resets(run: Internalisation, plans: Plans) -> list[int]:
    steps = range(plans.total_steps)
    return [step for step in steps if run.resets_optimizer(Clock(step // plans.steps_per_epoch, step))]


def counted_resets(run: Internalisation, plans: Plans, rows: Rows) -> list[int]:
    """Reset steps as the released script finds them: batch by batch, remembering whether the last had any thought."""
    found, previous_stage, all_removed = [], None, False
    for plan in plans:
        stage = run.remove.schedule.stage(plan.clock)
        if previous_stage is not None and stage > previous_stage and not all_removed:
            found.append(plan.clock.step)
        left = 0
        for indices in plan.micro_batches:
            left += int((run.remove(rows.flat(indices), plan.clock).roles == Role.THOUGHT).sum())
        previous_stage, all_removed = stage, left == 0
    return found


@pytest.mark.parametrize("smoothing", [NO_SMOOTHING, 4.0, 0.2])
@pytest.mark.parametrize(
    "knobs",
    [
        {"per_epoch": 3},
        {"per_epoch": 2, "pretrain_epochs": 2, "start": 1},
        {"per_epoch": 3, "remove_all_from": 4},
        {"per_epoch": 6, "unit": "step", "step_ends": (STEP_END,)},
        {"build": Released, "per_epoch": 3},
    ],
)
def test_resets_are_those_of_the_released_script(smoothing: float, knobs: dict) -> None:
    thoughts = np.random.default_rng(0).integers(0, 9, size=50).tolist()
    run, plans, rows = run_of(thoughts, smoothing=smoothing, **knobs)
    expected = counted_resets(run, plans, rows)
    assert resets(run, plans) == expected
    assert 2 <= len(expected) < plans.total_steps / 2


def test_resets_end_once_nothing_is_left() -> None:
    """Four tokens, one per epoch of five steps: stages go on changing, the optimizer settles after the last removal."""
    run, plans, _ = run_of([4] * 20, per_epoch=1, smoothing=NO_SMOOTHING)
    assert resets(run, plans) == [5, 10, 15, 20]
    assert run.remove.schedule.stage(Clock(6, 30)) == 6
    assert resets(run_of([4] * 20, per_epoch=1, reset_optimizer=False)[0], plans) == []


def test_every_process_sees_the_same_reset() -> None:
    """One of two processes has no thought in the step before; the rule looks at the rows of both."""
    thoughts = [0] * 8 + [6] * 8
    alone, plans, _ = run_of(thoughts, per_epoch=2, plans={"batch_size": 8})
    expected = resets(alone, plans)
    for rank in range(2):
        run, split, _ = run_of(thoughts, per_epoch=2, plans={"batch_size": 4, "rank": rank, "world_size": 2})
        assert split.total_steps == plans.total_steps
        assert resets(run, split) == expected != []


@pytest.mark.parametrize(
    ("switches", "resets_wanted", "restarts_wanted"),
    [
        ({}, True, True),
        ({"reset_optimizer": False}, False, False),
        ({"reset_optimizer": False, "restart_schedule": True}, False, True),
        ({"restart_schedule": False}, True, False),
    ],
)
def test_reset_and_restart_are_two_switches(switches: dict, resets_wanted: bool, restarts_wanted: bool) -> None:
    run, plans, _ = run_of([4] * 20, per_epoch=1, smoothing=NO_SMOOTHING, **switches)
    restarts = [step for step in range(plans.total_steps) if run.restarts_schedule(plans.clock(step))]
    assert resets(run, plans) == [5, 10, 15, 20] * resets_wanted and restarts == [5, 10, 15, 20] * restarts_wanted
    assert [run.last_restart(before=step) for step in (5, 6, 40)] == [0, 5 * restarts_wanted, 20 * restarts_wanted]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_follow_the_boundaries_whoever_makes_them(num_workers: int) -> None:
    """Stages end at measurements, which come while workers are ahead; a run that goes on makes the same batches."""
    pace = {"pace": "accuracy", "measure_every": 3, "smoothing": NO_SMOOTHING, "partial": True}
    run, plans, rows = run_of([4] * 20, **pace)
    data = run.applied_to(ReasoningDataset(rows, ((0, 20, 1.0),), {}, BYTES, DropReport()))
    ended = {6: 1.0, 9: 0.95, 15: 1.0}

    def removed(stages, data, plans) -> list[int]:
        found = []
        for step in load_stages(
            data, plans, Run(Path(), torch.device("cpu"), None, World()), stages, num_workers=num_workers
        ):
            found += {4 - int((batch.roles == Role.THOUGHT).sum(1)[0]) for batch in step.micro_batches}
            if stages.measures(step.clock.step + 1):
                stages.decide(step.clock.step + 1, ended.get(step.clock.step + 1, 0.94))
        return found

    seen = removed(run, data, plans)
    assert seen[:18] == [0] * 6 + [1] * 3 + [2] * 6 + [3] * 3 and len(seen) == plans.total_steps == 40
    assert resets(run, plans)[:3] == [6, 9, 15] and run.progress(plans.clock(8))["stage"] == 1
    for boundaries, same in ((run.boundaries[:2], True), ((), False)):
        again = Stepwise(**pace)(plans, rows, (), boundaries)
        later = removed(again, again.applied_to(replace(data, transforms={})), replace(plans, start_step=11))
        assert (later == seen[11:]) == same and (again.boundaries == run.boundaries) == same


def test_validation_rows_that_cannot_decide_are_refused() -> None:
    run, _, rows = run_of([4] * 20, pace="accuracy", measure_every=1)
    data = ReasoningDataset(rows, ((0, 20, 1.0),), {}, BYTES, DropReport())
    others = replace(rows, tokens=rows.tokens + 100)
    questions = SimpleNamespace(prompts=lambda chat: [("test.txt:7", [101, 109])])
    run.check_held_out(data, data.with_rows(others), None)
    for held_out, answers, said in (
        (others, questions, "test.txt:7 .* validation data"),
        (rows, None, "row .* training data"),
        (replace(others, roles=np.minimum(others.roles, Role.THOUGHT)), None, "dataset_val"),
    ):
        with pytest.raises(UserError, match=said):
            run.check_held_out(data, data.with_rows(held_out), answers)


def test_log_of_a_step_agrees_with_its_batches() -> None:
    thoughts = np.random.default_rng(1).integers(0, 9, size=40).tolist()
    run, plans, rows = run_of(thoughts, per_epoch=2, smoothing=0.5, plans={"gradient_accumulation_steps": 2})
    by_id = dict(zip(rows.ids.tolist(), thoughts, strict=True))
    batches = Batches(rows, {"remove": run.remove}, pad_id=0)
    assert plans.total_steps == 40
    for step in DataLoader(batches, sampler=plans, batch_size=None):
        ids = [i for batch in step.micro_batches for i in batch.ids]
        left = sum(int((batch.roles == Role.THOUGHT).sum()) for batch in step.micro_batches)
        full = sum(by_id[i] for i in ids)
        progress = run.progress(step.clock)
        assert progress["thought_tokens"] == pytest.approx(left / len(ids))
        assert progress["removed"] == pytest.approx((full - left) / len(ids))
        assert progress["stage"] == min(run.remove.schedule.stage(step.clock), 8)


def test_units_are_tokens_or_steps() -> None:
    thoughts = [0, 1, 3, 4, 7]
    assert run_of(thoughts)[0].units.tolist() == thoughts
    assert run_of(thoughts, unit="step", step_ends=(STEP_END,))[0].units.tolist() == [0, 1, 1, 2, 3]
    assert "thought_steps" in run_of(thoughts, unit="step", step_ends=(STEP_END,))[0].progress(Clock(0, 0))


def test_micro_batches_are_the_time_of_the_reference() -> None:
    """13 rows in micro-batches of 2, 3 of them a step: 7 micro-batches and 3 steps an epoch."""
    plans = {"batch_size": 2, "gradient_accumulation_steps": 3}
    run, made, _ = run_of([5] * 13, build=Released, plans=plans, per_epoch=2)
    assert made.steps_per_epoch == 3
    schedule = run.remove.schedule
    assert schedule.ticks_per_epoch == 7
    assert [schedule.stage(Clock(step // 3, step)) for step in range(6)] == [t // 4 for t in (0, 3, 6, 7, 10, 13)]
    cut, _, _ = run_of([5] * 13, build=Released, plans={**plans, "max_steps_per_epoch": 1}, per_epoch=1)
    assert cut.remove.schedule.ticks_per_epoch == 3


def test_a_run_too_short_for_its_thoughts_is_refused_unless_partial() -> None:
    with pytest.raises(ValueError, match=r"90 tokens.* 12 epochs"):
        run_of([5] * 39 + [90])
    run_of([5] * 39 + [90], partial=True)
    with pytest.raises(ValueError, match="30 steps"):
        run_of([5] * 39 + [90], per_epoch=1, unit="step", step_ends=(STEP_END,))
    with pytest.raises(ValueError, match="one process, not for 2"):
        run_of([5] * 16, plans={"world_size": 2}, count="micro_batch")


def test_no_chain_of_thought_and_explicit_are_settings() -> None:
    none, plans, rows = run_of([5] * 8, start="all")
    assert none.remove.schedule.stage(Clock(0, 0)) == REMOVE_ALL and resets(none, plans) == []
    assert not (none.remove(rows.flat([0, 3]), Clock(0, 0)).roles == Role.THOUGHT).any()
    assert none.progress(Clock(0, 0))["stage"] == 5
    explicit, plans, rows = run_of([5] * 8, per_epoch=0, smoothing=NO_SMOOTHING, partial=True)
    flat = rows.flat([0, 3])
    assert explicit.remove(flat, Clock(7, 15)) is flat and resets(explicit, plans) == []


def test_released_is_stepwise_with_other_defaults() -> None:
    ours, theirs = (inspect.signature(build).parameters for build in (Stepwise, Released))
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name].default != theirs[name].default} == {"count", "pace"}
    assert "per_epoch" in pydoc.plain(pydoc.render_doc(Released)) and "2405.14838" in Released.__doc__


def test_chat_traces_lose_tokens_and_have_no_steps(tmp_path) -> None:
    tokenizer = hf_tokenizer(str(write_byte_tokenizer(tmp_path)))
    data = reasoning_dataset(tokenizer, source="generated", max_rows=4)
    plans = Plans(data.rows.lengths, batch_size=4, epochs=2)
    run = Stepwise(per_epoch=9, partial=True, smoothing=NO_SMOOTHING)(plans, data.rows, data.chat.step_ends)
    before, after = (run.applied_to(data).batches().batch([0], Clock(step, step)).num_tokens for step in (0, 1))
    assert before - after == 9
    with pytest.raises(UserError, match="unit"):
        Stepwise(unit="step", partial=True)(plans, data.rows, data.chat.step_ends)


def test_the_removal_goes_in_front_of_other_transforms() -> None:
    """Of held-out rows too, whose length is not asked for: only None is none."""

    class Unasked(ReasoningDataset):
        def __len__(self) -> int:
            raise AssertionError

    run, _, rows = run_of([5] * 8, per_epoch=2)
    data = Unasked(rows, ((0, 8, 1.0),), {"cap": Cap(max_tokens=9)}, None, DropReport())
    assert list(run.applied_to(data).transforms) == list(run.held_out(data).transforms) == ["remove", "cap"]
    assert run.held_out(None) is None


def test_without_a_curriculum_nothing_changes() -> None:
    rows = rows_with([5] * 8)
    plans = Plans(rows.lengths, batch_size=4, epochs=2)
    stages = NoCurriculum()(plans, rows)
    data = ReasoningDataset(rows, ((0, 8, 1.0),), {}, None, DropReport())
    assert stages.applied_to(data) is data and stages.held_out(data) is data and stages.held_out(None) is None
    assert not any(stages.resets_optimizer(plans.clock(step)) for step in range(plans.total_steps))
    assert stages.last_restart(before=4) == 0 and stages.progress(Clock(0, 0)) == {}
    assert stages.held_out_clock(3) == Clock(0, 0) and stages.clocks() == plans.epoch_clocks()
