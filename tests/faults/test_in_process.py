"""Faults inside the process, for every training recipe: the first error comes out, the last checkpoint stays whole, and
the same command goes on."""

import os
import signal

import pytest
import torch
from tally import count
from tiny_runs import TOTAL, Killed, checkpoint, differences, patched, same_steps, saved_steps

import cot_components.runs.checkpoint as checkpoint_module
import cot_components.training.loop as loop
import cot_components.training.run_log as run_log
from cot_components.data.rows.batches import Batches
from cot_components.runs.checkpoint import damage, find_newest
from cot_components.runs.folder import hold
from cot_components.training.evaluations import Evaluations
from cot_components.training.run_log import RunLog

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files of runs that died


class Broken(RuntimeError):
    """What a test breaks with: nothing in the package may turn it into something else."""


def at_call(number, original, act):
    """`original`, with `act` done first at its `number`-th call."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            act()
        return original(*args, **kwargs)

    return wrapped


def broken():
    count("faults injected")
    raise Broken("first error")


PLACES = {
    "data": (Batches, "batch", 9),
    "forward and backward": (loop.StepMeter, "add", 9),
    "gradient": (torch.nn.utils, "clip_grad_norm_", 5),
    "optimizer": (torch.optim.AdamW, "step", 5),
    "logger": (RunLog, "record", 6),
    "evaluation": (Evaluations, "_measure", 2),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_an_error_comes_out_and_the_last_checkpoint_is_whole(reference, tmp_path, place):
    where, name, number = PLACES[place]
    out, handlers = tmp_path / "out", [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with patched((where, name, at_call(number, getattr(where, name), broken))), pytest.raises(Broken):
        reference.again(out)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    steps = saved_steps(out)
    assert steps and all(damage(checkpoint(out, step)) is None for step in steps)
    seen = reference.again(out)
    assert seen.code == 0 and differences(reference.out, out) == []


@pytest.mark.parametrize(
    "point",
    ["after model.safetensors", "after optimizer.safetensors", "before manifest", "before rename", "before prune"],
)
def test_death_at_every_stage_of_a_save(reference, tmp_path, point):
    """The process is gone at once: no handler runs, what is half written stays where it is."""
    saves = []

    def reached(here):
        if here == point:
            saves.append(here)
            if len(saves) == 4:
                raise Killed

    out = tmp_path / "out"
    without_tidying = (checkpoint_module.shutil, "rmtree", lambda path, **options: None)
    with patched((checkpoint_module, "reached", reached), without_tidying), pytest.raises(Killed):
        reference.again(out)
    assert find_newest(out / "checkpoints").path == checkpoint(out, 4 if point == "before prune" else 3)
    assert reference.again(out).code == 0 and differences(reference.out, out) == []
    assert not list((out / "checkpoints").glob(".saving-*"))


def signalled(number):
    return lambda: (count("faults injected"), os.kill(os.getpid(), number))


SIGNALS = {
    "in a forward": (loop.StepMeter, "add", 9, signal.SIGTERM),
    "between micro-batches": (loop.StepMeter, "add", 10, signal.SIGINT),
    "in a save": (checkpoint_module, "reached", 17, signal.SIGTERM),
    "in an evaluation": (Evaluations, "_measure", 2, signal.SIGTERM),
    "before the first step": (Evaluations, "_measure", 1, signal.SIGINT),
    "in the data": (Batches, "batch", 9, signal.SIGTERM),
}


@pytest.mark.parametrize("place", list(SIGNALS))
def test_a_signal_saves_and_ends(reference, tmp_path, place):
    where, name, count, number = SIGNALS[place]
    out = tmp_path / "out"
    every = [] if place == "in a save" else ["save_every_n_steps=null"]  # nothing but the signal saves
    with patched((where, name, at_call(count, getattr(where, name), signalled(number)))):
        seen = reference.again(out, *every, "keep_checkpoints=1")
    assert seen.code == 128 + number
    steps = saved_steps(out)
    assert len(steps) == 1 and damage(checkpoint(out, steps[0])) is None
    seen = reference.again(out)
    assert seen.code == 0 and same_steps(seen, reference.seen, after=steps[0])
    assert differences(reference.out, out) == []


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_before_the_update(reference, tmp_path, capsys, poison):
    """The poisoned step is not saved, its rows are named, and the same command ends there again."""

    train_step, out = loop.train_step, tmp_path / "out"

    def bad_fifth(trainer, step, **options):
        if step.clock.step == 4:
            count("faults injected")
            fused = trainer.loss
            trainer.loss = lambda *args, **kwargs: (found := fused(*args, **kwargs))._replace(
                objective=found.objective * poison
            )
        return train_step(trainer, step, **options)

    with patched((loop, "train_step", bad_fifth)):
        seen = reference.again(out)
    assert seen.code == 2 and saved_steps(out) == [1, 2, 3, 4]
    said = capsys.readouterr().err
    rows = reference.seen.steps[4][1]
    assert "step 4: loss" in said and "stopped before the update" in said
    assert {int(row) for row in said.split("Row ids: ")[1].split("\n")[0].split(", ")} <= set(rows)
    assert reference.again(out).code == 0 and differences(reference.out, out) == []


@pytest.mark.parametrize(("at", "saves"), [(4, "save_every_n_steps=1"), (TOTAL, "save_every_n_steps=null")])
def test_an_update_that_poisons_weights_is_neither_saved_nor_exported(bt_sft, tmp_path, capsys, at, saves):
    """Loss and gradient were finite; what was saved before stays."""
    updates = []

    def overflow(optimizer, *args):
        original(optimizer, *args)
        updates.append(1)
        if len(updates) == at:
            count("faults injected")
            optimizer.param_groups[0]["params"][2].data.view(-1)[3] = float("inf")

    original, out = torch.optim.AdamW.step, tmp_path / "out"
    with patched((torch.optim.AdamW, "step", overflow)):
        seen = bt_sft.again(out, saves, "save_every_minutes=null")
    said = capsys.readouterr().err
    assert seen.code == 2 and f"error: after {at} steps the weight 'layers.0." in said and "' is not finite" in said
    assert saved_steps(out) == ([1, 2, 3] if at == 4 else []) and not (out / "model").exists()
    assert bt_sft.again(out).code == 0 and differences(bt_sft.out, out) == []


FULL = "/dev/full"
"""Where every write ends as on a full disk."""


@pytest.mark.parametrize(
    "name", ["versions.json", "evaluations/step_0.json", "model/config.json", "finished.json.new", "log.jsonl"]
)
def test_a_disk_full_during_a_run_is_one_sentence(bt_sft, tmp_path, capsys, name):
    count("faults injected")
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    if name == "log.jsonl":  # the run makes it again
        fault = (run_log, "hold", lambda file: hold(open(FULL, "a")))  # noqa: SIM115
    else:
        (out / name).symlink_to(FULL)
        fault = (run_log, "hold", hold)
    with patched(fault):
        seen = bt_sft.again(out)
    place = out / ("model" if name.startswith("model") else name)
    place = out / "finished.json" if name.startswith("finished") else place
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert seen.code == 2 and f"error: cannot write to {place}: No space left on device" in said[-1]


def test_a_learning_rate_that_explodes_is_stopped(bt_sft, tmp_path, refused):
    count("faults injected")
    out = tmp_path / "out"
    said = refused(bt_sft.again(out, "optimizer.lr=1e20", "lr_scheduler=null", "optimizer.fused=false"))
    assert "stopped before the update. Row ids: " in said
    assert max(saved_steps(out)) < TOTAL and not (out / "model").exists()
