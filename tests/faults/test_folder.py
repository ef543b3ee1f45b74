"""What lies in the run's folder at the start, for every training recipe: used, refused or named in one sentence."""

import json
import re
import shutil

import pytest
import torch
from tally import count
from tiny_runs import FILES, TOTAL, Killed, checkpoint, copied, differences, flip, patched, same_steps, saved_steps

from cot_components.data.rows.store import Rows
from cot_components.errors import UserError
from cot_components.runs.checkpoint import damage
from cot_components.runs.folder import enter_folder, release
from cot_components.training.evaluations import Evaluations
from cot_components.training.resume.saver import Saver

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files of runs that died


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


HARMS = {
    **{f"flipped {name}": lambda path, name=name: flip(path / name) for name in FILES[:4]},
    **{f"cut {share}": lambda path, share=share: cut(path / FILES[0], share) for share in (0.0, 0.5, 0.99)},
    "missing": lambda path: (path / "random.safetensors").unlink(),
    "empty": lambda path: (shutil.rmtree(path), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_newest_checkpoint_is_left_out(reference, tmp_path, capsys, harm):
    """What it costs is the steps since the one before it; nothing else."""
    out = copied(reference.out, tmp_path / "out", until=TOTAL - 1)
    count("faults injected")
    HARMS[harm](checkpoint(out, TOTAL - 1))
    seen = reference.again(out)
    assert seen.code == 0 and same_steps(seen, reference.seen, after=TOTAL - 2)
    assert f"skipped {checkpoint(out, TOTAL - 1)}: " in capsys.readouterr().out
    assert differences(reference.out, out) == []


def test_a_damaged_one_is_set_aside_and_takes_no_place(bt_sft, tmp_path, capsys):
    """Of two that are kept, both are whole, though the run never came to the step of the damaged one again."""
    count("faults injected")
    out = copied(bt_sft.out, tmp_path / "out", until=5)
    flip(checkpoint(out, 5) / "model.safetensors")
    assert bt_sft.again(out, "keep_checkpoints=2", "save_every_n_steps=6").code == 0
    assert f"set aside {checkpoint(out, 5)}, which is later" in capsys.readouterr().out
    assert saved_steps(out) == [6, TOTAL] and damage(checkpoint(out, 6)) is None
    assert [path.name for path in (out / "checkpoints").glob("*.set_aside")] == ["step_00000005.set_aside"]


def test_no_whole_checkpoint_is_an_error_that_lists_them(bt_sft, tmp_path, refused):
    out = copied(bt_sft.out, tmp_path / "out", until=3)
    for step in (1, 2, 3):
        count("faults injected")
        flip(checkpoint(out, step) / FILES[step])
    said = refused(bt_sft.again(out))
    assert "no checkpoint in" in said and all(f"{FILES[step]} has changed" in said for step in (1, 2, 3))


def newer_format(out):
    manifest = checkpoint(out, 2) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))


OTHER_RUNS = {
    "optimizer.lr=0.5": "optimizer.lr was",
    "model.max_seq_len=300": r"model.max_seq_len was \d+, is 300",
    "seed=7": r"seed was \d, is 7",
    "epochs=3": "epochs was 2, is 3",
    "batch_size=2": "the size of a step",
    "resume=never": "already holds a run",
    "resume=nowhere": "already holds another run",
    "resume={out}/checkpoints/step_00000009": "resume: no folder",
}


@pytest.mark.parametrize("override", OTHER_RUNS)
def test_another_config_is_refused_and_named(bt_sft, tmp_path, refused, override):
    count("faults injected")
    out = copied(bt_sft.out, tmp_path / "out", until=2)
    before = (out / "log.jsonl").read_bytes()
    assert re.search(OTHER_RUNS[override], refused(bt_sft.again(out, override.format(out=out))))
    assert saved_steps(out) == [1, 2] and (out / "log.jsonl").read_bytes() == before


def test_a_newer_format_and_data_that_changed_are_refused(bt_sft, tmp_path, refused):
    count("faults injected", 2)
    out = copied(bt_sft.out, tmp_path / "out", until=2)
    with patched((Rows, "training_hash", lambda self: "0" * 64)):
        assert refused(bt_sft.again(out)).startswith("resume: the content of the data (its hash)")
    newer_format(out)
    assert "has checkpoint format 99; this version reads 1" in refused(bt_sft.again(out))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("seed: 1\nmodel: [1\n", "config.yaml:3: not YAML: "),
        ("seed: 1\n\tmodel: 1\n", "config.yaml:2: not YAML: "),
        ("- seed\n", "config.yaml is not a config: it is a list"),
        ("", None),
    ],
)
def test_a_config_broken_by_hand(tmp_path, broken, said):
    """That of a run to go on with."""
    count("faults injected")
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text(broken)
    with pytest.raises(UserError) as error:
        enter_folder(tmp_path, {"seed": 1}, resume="auto")
    release()
    assert str(error.value).startswith(f"output_dir: {tmp_path} ")
    assert said is None or f"holds a run without a readable config.yaml ({tmp_path}/{said}" in str(error.value)


def test_keys_that_change_no_number_are_free(reference, tmp_path):
    """Another split of the same global batch, workers, other points of saving and evaluating."""
    out = copied(reference.out, tmp_path / "out", until=TOTAL - 2)
    free = ["num_workers=2", "save_every_n_steps=5", "log_every_n_steps=2", "batch_size=8"]
    seen = reference.again(out, *free, "gradient_accumulation_steps=1")
    assert seen.code == 0 and len(seen.steps) == 2
    for (_, ids, loss), (_, same_ids, same_loss) in zip(seen.steps, reference.seen.steps[-2:], strict=True):
        assert set(ids) == set(same_ids) and loss == pytest.approx(same_loss, rel=0.1)  # dropout falls elsewhere


def test_a_checkpoint_by_its_path(reference, tmp_path):
    """In its own folder, later checkpoints step aside; in a new folder, log and evaluations come along."""
    own = copied(reference.out, tmp_path / "own", until=6)
    assert reference.again(own, f"resume={checkpoint(own, 4)}").code == 0
    assert differences(reference.out, own) == []
    assert sorted(path.name[:13] for path in (own / "checkpoints").glob("*.set_aside")) == [
        "step_00000005",
        "step_00000006",
    ]
    new = tmp_path / "new"
    seen = reference.again(new, f"resume={checkpoint(reference.out, 8)}")
    assert seen.code == 0 and same_steps(seen, reference.seen, after=8)
    assert differences(reference.out, new) == []


@pytest.mark.parametrize("own", [True, False], ids=["its own folder", "another folder"])
@pytest.mark.parametrize("saved", [True, False], ids=["saved since", "nothing saved yet"])
def test_a_run_from_a_path_goes_on_by_the_same_command(bt_sft, tmp_path, own, saved):
    """Stopped on its way, it takes up what it has saved since, not the checkpoint it began with."""
    count("faults injected")
    old = copied(bt_sft.out, tmp_path / "old", until=6)
    out = old if own else tmp_path / "new"
    command = [f"resume={checkpoint(old, 4)}", f"save_every_n_steps={2 if saved else 12}"]

    def die(self, step):
        original(self, step)
        if step.clock.step == 7:
            raise Killed

    original = Saver.after_step
    with patched((Saver, "after_step", die)), pytest.raises(Killed):
        bt_sft.again(out, *command)
    seen = bt_sft.again(out, *command)
    assert seen.code == 0 and [step for step, _, _ in seen.steps] == list(range(8 if saved else 4, TOTAL))
    assert differences(bt_sft.out, out) == []
    assert bt_sft.again(out, *command).steps == [], "finished: nothing is trained"


def test_going_back_twice_loses_no_checkpoint(bt_sft, tmp_path):
    out = copied(bt_sft.out, tmp_path / "out", until=6)
    for _ in range(2):
        assert bt_sft.again(out, f"resume={checkpoint(out, 4)}").code == 0
        (out / "finished.json").unlink()
        assert bt_sft.again(out).code == 0
    aside = sorted(path.name for path in (out / "checkpoints").glob("step_00000006.set_aside*"))
    assert aside == ["step_00000006.set_aside", "step_00000006.set_aside1"]


def test_an_evaluation_that_fails_takes_no_step_with_it(reference, tmp_path):
    """The last one: all is trained, and the next start has only to evaluate."""

    def fail(self, step):
        if step == TOTAL:
            raise RuntimeError("out of memory")
        original(self, step)

    count("faults injected")
    original, out = Evaluations.run_if_due, tmp_path / "out"
    with patched((Evaluations, "run_if_due", fail)), pytest.raises(RuntimeError, match="out of memory"):
        reference.again(out, "save_every_n_steps=100")
    assert saved_steps(out) == [TOTAL]
    seen = reference.again(out, "save_every_n_steps=100")
    assert seen.code == 0 and seen.steps == []
    assert differences(reference.out, out) == ["evaluations"], "of the checkpoint, which is from before the last one"


@pytest.mark.parametrize(("before", "told"), [("7", "cpu threads was 7, is "), (None, "")])
def test_what_rounds_sums_otherwise_is_said(bt_sft, tmp_path, capsys, before, told):
    out = copied(bt_sft.out, tmp_path / "out", until=8)
    versions = json.loads((out / "versions.json").read_text())
    if before:
        versions["cpu threads"] = before
    (out / "versions.json").write_text(json.dumps(versions))
    assert bt_sft.again(out).code == 0
    printed = capsys.readouterr().out
    assert "resumed from" in printed and (told in printed if told else "rounded" not in printed)
    assert json.loads((out / "versions.json").read_text())["cpu threads"] == str(torch.get_num_threads())


def test_a_run_that_never_saved_starts_again(reference, tmp_path):
    out = copied(reference.out, tmp_path / "out", until=0)
    seen = reference.again(out, "save_every_n_steps=12")
    assert seen.code == 0 and same_steps(seen, reference.seen, after=0)


@pytest.mark.parametrize("blocked", ["file", "file/out", "/proc/out"])
def test_a_folder_that_cannot_be_made(bt_sft, tmp_path, refused, blocked):
    count("faults injected")
    (tmp_path / "file").write_text("x")
    assert f"output_dir: cannot write to {tmp_path / blocked}: " in refused(bt_sft.again(tmp_path / blocked))


def test_a_relative_folder_stays_where_it_was(bt_sft, tmp_path, monkeypatch):
    def move(self, *args):
        begin(self, *args)
        monkeypatch.chdir("/")

    begin = Saver.begin
    monkeypatch.chdir(tmp_path)
    with patched((Saver, "begin", move)):
        assert bt_sft.again("out").code == 0
    assert saved_steps(tmp_path / "out") == list(range(1, TOTAL + 1)) and (tmp_path / "out" / "model").is_dir()


SETTINGS = {
    "save_every_minutes=-1": "save_every_minutes must be positive",
    "keep_checkpoints=0": "keep_checkpoints must be positive",
    "resume=null": "resume must be str",
    "save_every_minutes=.nan": "save_every_minutes must be positive",
    "clip_grad_norm=-1": "clip_grad_norm (null for none) must be above 0",
    "evaluate_every_n_steps=-1": "evaluate_every_n_steps (null for never) must be at least 1",
    "log_every_n_steps=-1": "log_every_n_steps (0 for never) must be at least 0",
    "log_blurred_every=-1": "log_blurred_every (0 for never) must be at least 0",
}


@pytest.mark.parametrize("override", SETTINGS)
def test_settings_are_checked(bt_sft, tmp_path, refused, override):
    count("faults injected")
    assert SETTINGS[override] in refused(bt_sft.again(tmp_path / "out", override))
