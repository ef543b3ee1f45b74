"""Resumed equals never stopped, bit for bit, for every method; and fails when something is withheld."""

import pytest
from tiny_runs import (
    PER_EPOCH,
    TOTAL,
    Killed,
    checkpoint,
    copied,
    differences,
    patched,
    same_steps,
    saved_steps,
    training_recipes,
)

import cot_components.training.evaluations as evaluations
import cot_components.training.resume.state as state_module
from cot_components.runs.checkpoint import read_state
from cot_components.training.resume.saver import Saver
from cot_components.training.setup import Run

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files of runs that died


@pytest.fixture(params=training_recipes())
def method(request, undisturbed):
    return undisturbed(request.param)


def test_the_undisturbed_run_is_what_the_battery_thinks(method):
    assert method.seen.code == 0 and saved_steps(method.out) == list(range(1, TOTAL + 1))
    assert [step for step, _, _ in method.seen.steps] == list(range(TOTAL))
    sizes = [len(ids) for _, ids, _ in method.seen.steps]
    assert sizes == [8, 8, 8, 8, 8, 4] * 2  # accumulation, and a ragged last step


@pytest.mark.parametrize("step", [1, 4, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 2, TOTAL - 1, TOTAL])
def test_resumed_equals_uninterrupted(method, tmp_path, step):
    """At the first step, in an epoch, before its last step, at its boundary (where a curriculum resets), at the end."""
    out = copied(method.out, tmp_path / "out", until=step)
    seen = method.again(out)
    assert seen.code == 0 and same_steps(seen, method.seen, after=step)
    assert differences(method.out, out) == []


@pytest.mark.parametrize("name", ["icot_sft", "target_sft"])  # an optimizer that is reset; a frozen teacher
def test_resumed_in_bf16_equals_uninterrupted(undisturbed, tmp_path, name):
    words = ["dtype=bf16", "optimizer_state=fp32_weights"]
    assert undisturbed(name).again(tmp_path / "whole", *words).code == 0
    out = copied(tmp_path / "whole", tmp_path / "out", until=PER_EPOCH)
    assert undisturbed(name).again(out, *words).code == 0
    assert differences(tmp_path / "whole", out) == []


PACED = [
    *("curriculum.pace=accuracy", "curriculum.bar=0.5", "curriculum.cap=6", "curriculum.measure_every=1"),
    *("dataset.exclude=[validation]", "dataset_val={split: validation, num_rows: 6}"),
]


def share_of_weights(trainer, data, **settings):
    """In place of right answers, which so short a run has none of: it depends on every bit of the weights."""
    return 1e6 * float(sum(p.detach().double().sum() for p in trainer.model.parameters())) % 1


def test_a_measured_pace_resumes_from_the_boundaries_of_the_checkpoint(undisturbed, tmp_path):
    """With batches made in the loop and ahead of it; and not without the boundaries."""
    icot, whole, at = undisturbed("icot_sft"), tmp_path / "whole", 7
    with patched((evaluations, "answers_right", share_of_weights)):
        seen = icot.again(whole, *PACED)
        known = read_state(checkpoint(whole, at))["boundaries"]
        assert 1 <= len(known) < len(read_state(checkpoint(whole, TOTAL))["boundaries"])
        for num_workers in (0, 2):
            out = copied(whole, tmp_path / f"with_{num_workers}", until=at)
            again = icot.again(out, *PACED, f"num_workers={num_workers}")
            assert again.code == 0 and same_steps(again, seen, after=at) and differences(whole, out) == []
        out = copied(whole, tmp_path / "without", until=at)
        with patched((Run, "boundaries", ())):
            assert icot.again(out, *PACED).code == 0
        assert differences(whole, out) != []


def test_a_run_that_dies_between_two_checkpoints(reference, tmp_path):
    """Steps after the last checkpoint are done again; their records are not in the log twice."""

    def die(self, step):
        original(self, step)
        if step.clock.step == 4:
            raise Killed

    original, out = Saver.after_step, tmp_path / "out"
    with patched((Saver, "after_step", die)), pytest.raises(Killed):
        reference.again(out, "save_every_n_steps=3")
    assert saved_steps(out) == [3]
    seen = reference.again(out, "save_every_n_steps=3")
    assert [step for step, _, _ in seen.steps] == list(range(3, TOTAL))
    assert differences(reference.out, out) == []


def test_resuming_twice_without_training_changes_nothing(reference, tmp_path):
    def die(self):
        raise Killed

    out = copied(reference.out, tmp_path / "out", until=5)
    before = (checkpoint(out, 5) / "manifest.json").read_bytes()
    for _ in range(2):
        with patched((Saver, "before_first_step", die)), pytest.raises(Killed):
            reference.again(out)
    assert (checkpoint(out, 5) / "manifest.json").read_bytes() == before
    reference.again(out)
    assert differences(reference.out, out) == []


def test_a_finished_run_says_so(reference, capsys):
    before = sorted(path.name for path in reference.out.rglob("*"))
    seen = reference.again(reference.out)
    assert seen.code == 0 and seen.steps == []
    assert "holds this run, already finished; to train again: output_dir=ANOTHER" in capsys.readouterr().out
    assert sorted(path.name for path in reference.out.rglob("*")) == before


WITHHELD = {
    "random state": (state_module, "set_random_state", lambda state, device: None),
    "optimizer": (state_module, "_restore_optimizer", lambda trainer, file, saved: None),
    "position": (Run, "start_step", property(lambda run: run.earlier.state["step"] + 1 if run.earlier else 0)),
}


@pytest.mark.parametrize("part", WITHHELD)
def test_negative_control(reference, tmp_path, part):
    """The comparison notices when one part of the state is not restored."""
    out = copied(reference.out, tmp_path / "out", until=4)
    with patched(WITHHELD[part]):
        seen = reference.again(out)
    assert seen.steps != reference.seen.steps[4:] and differences(reference.out, out) != []
