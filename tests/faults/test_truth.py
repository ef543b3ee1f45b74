"""A run's folder never lies: what of it cannot be read, was cut, lost or changed is said, and never passed over."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
from tally import count
from tiny_runs import TOTAL, checkpoint, copied, differences, patched, records, same_steps, saved_steps

import cot_components.runs.checkpoint as checkpoint_module
import cot_components.training.finish as finish
from cot_components.data.rows.batches import Batches
from cot_components.errors import UserError
from cot_components.runs.folder import enter_folder, lock, release
from cot_components.training.evaluations import Evaluations
from cot_components.viz.curves import plot_run
from cot_components.viz.report import report_html


def closed(path, mode):
    """`os.access` as for a user who may not do `mode` with `path`."""
    original = os.access

    def access(asked, wanted, **options):
        return not (str(asked) == str(path) and wanted & mode) and original(asked, wanted, **options)

    return (os, "access", access)


def content_of(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("part", "mode", "said"),
    [
        ("checkpoints", os.R_OK, "read"),
        ("checkpoints", os.W_OK, "write to"),
        ("checkpoints/step_00000002", os.X_OK, "enter"),
        ("checkpoints/step_00000002/model.safetensors", os.R_OK, "read"),
        ("evaluations", os.R_OK, "read"),
        ("evaluations/step_0.json", os.W_OK, "write to"),
        ("log.jsonl", os.W_OK, "write to"),
        ("config.yaml", os.R_OK, "read"),
    ],
)
def test_a_closed_part_is_an_error_and_nothing_is_touched(bt_sft, tmp_path, refused, part, mode, said):
    count("faults injected")
    out = copied(bt_sft.out, tmp_path / "out", until=2)
    before = content_of(out)
    with patched(closed(out / part, mode)):
        assert f"output_dir: this user may not {said} {out / part}" in refused(bt_sft.again(out))
    assert content_of(out) == before


def test_another_user_does_not_start_again():
    """For real: a folder of checkpoints of umask 077, in a folder that everybody may write."""
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's, which is closed to others
        another_user_starts(Path(folder) / "out")


def another_user_starts(out):
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "step_00000001").mkdir()
    (out / "log.jsonl").write_text('{"step": 0}\n')
    for path in (out.parent, out):
        path.chmod(0o777)
    (out / "checkpoints").chmod(0o700)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    else:
        (out / "checkpoints").chmod(0)
    try:
        with pytest.raises(UserError, match=r"output_dir: this user may not read .*checkpoints"):
            enter_folder(out, {"seed": 1, "keep_checkpoints": 2}, resume="auto")
    finally:
        os.seteuid(me)
        (out / "checkpoints").chmod(0o700)
        release()
    assert (out / "log.jsonl").read_text() == '{"step": 0}\n'


def broken_line(content):
    lines = content.split(b"\n")
    return b"\n".join([*lines[:3], b"{broken", *lines[4:]])


@pytest.mark.parametrize(
    ("harm", "said", "kept_beside"),
    [
        (lambda content: b"", "log.jsonl has 0 bytes of", False),
        (lambda content: None, "log.jsonl has 0 bytes of", False),
        (lambda content: content[:-200], "records of earlier steps are lost", True),
        (broken_line, "log.jsonl:4: not a log record", True),
    ],
    ids=["emptied", "missing", "cut", "a broken line"],
)
def test_a_log_that_was_harmed_is_said_and_ends_no_run(bt_sft, tmp_path, capsys, harm, said, kept_beside):
    count("faults injected")
    out = copied(bt_sft.out, tmp_path / "out", until=8)
    whole, log = records(bt_sft.out), out / "log.jsonl"
    written = json.loads((checkpoint(out, 8) / "state.json").read_text())["log_bytes"]
    harmed = harm(log.read_bytes()[:written])
    log.unlink() if harmed is None else log.write_bytes(harmed)
    seen = bt_sft.again(out)
    assert seen.code == 0 and same_steps(seen, bt_sft.seen, after=8) and said in capsys.readouterr().out
    assert (out / "finished.json").exists() and (out / "log.jsonl.set_aside").exists() == kept_beside
    kept = records(out)
    assert [r for r in kept if r["step"] > 8] == [r for r in whole if r["step"] > 8], "what came after is there"
    assert all(record in whole for record in kept) and (kept_beside or {r["step"] for r in kept} == {*range(8, 13)})
    assert differences(bt_sft.out, out) == ["log"]


@pytest.mark.parametrize("step", [4, 8], ids=["of a step long done", "of the step it stands at"])
@pytest.mark.parametrize("harm", ["missing", "changed", "broken"])
def test_an_evaluation_that_was_harmed_is_said(bt_sft, tmp_path, capsys, step, harm):
    """Measured again where the run stands at its step; otherwise left out of what it finds."""
    count("faults injected")
    out = copied(bt_sft.out, tmp_path / "out", until=8)
    if step == 8:  # the checkpoint of step 8 is from before its evaluation
        bt_sft.again(tmp_path / "other", "save_every_n_steps=8")
        out = copied(tmp_path / "other", tmp_path / "from before", until=8)
    path = out / "evaluations" / f"step_{step}.json"
    whole = path.read_text()
    {
        "missing": path.unlink,
        "changed": lambda: path.write_text(whole.replace('"num_samples": 1', '"num_samples": 1 ')),
        "broken": lambda: path.write_text(whole[:40]),
    }[harm]()
    assert bt_sft.again(out).code == 0
    said = capsys.readouterr().out
    done = json.loads((out / "finished.json").read_text())["evaluations"]
    if step == 4:
        assert f"the evaluation of step {step} is left out" in said and done == [0, 8, TOTAL]
        assert (out / "evaluations" / "step_4.json.set_aside").exists() == (harm != "missing") and not path.exists()
    else:
        assert done == [0, 4, 8, TOTAL] and path.read_text() == whole


@pytest.fixture
def done(bt_sft, tmp_path):
    out = tmp_path / "done"
    shutil.copytree(bt_sft.out, out)
    return out


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model/model.safetensors", lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
        ("model/model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"), "has changed"),
        ("model/model.safetensors", lambda path: path.unlink(), "is missing"),
        ("model/config.json", lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
        ("finished.json", lambda path: path.write_bytes(b""), "finished.json is not JSON"),
        ("finished.json", lambda path: path.write_text('{"files": [1]}'), "names no files"),
    ],
)
def test_results_that_are_not_those_written_are_written_again(bt_sft, done, capsys, name, harm, said):
    count("faults injected")
    harm(done / name)
    seen = bt_sft.again(done)
    printed = capsys.readouterr().out
    assert seen.code == 0 and seen.steps == []
    assert said in printed and "finishing again from its last checkpoint" in printed
    assert differences(bt_sft.out, done) == []
    assert bt_sft.again(done).code == 0 and "already finished" in capsys.readouterr().out


def test_files_beside_the_weights_may_be_changed_by_hand(bt_sft, done, capsys):
    (done / "model" / "generation_config.json").write_text("{}")
    assert bt_sft.again(done).code == 0 and "already finished" in capsys.readouterr().out


def test_without_a_checkpoint_a_harmed_result_is_an_error_and_nothing_is_lost(bt_sft, done, capsys):
    shutil.rmtree(done / "checkpoints")
    (done / "model" / "model.safetensors").write_bytes(b"")
    before = (done / "log.jsonl").read_bytes()
    assert bt_sft.again(done).code == 2
    assert "and no checkpoint is left" in capsys.readouterr().err and (done / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["$5_vs_$10", "a[/b]c", "e\x1b[31mx", "new\nline", "_hidden", ":smile:", "日本 語"])
def test_any_name_of_the_folder_works(bt_sft, tmp_path, capsys, monkeypatch, name):
    """Trained to the end, and finished again by the same command; with pictures, as a user has it."""
    out, drawn = tmp_path / name, []

    def plot(*args):
        drawn.append(plot_run(*args))
        return drawn[-1]

    short = ["max_steps_per_epoch=1", "epochs=1", "evaluation=null"]
    monkeypatch.setattr(tiny_runs, "finish", SimpleNamespace(plot_run=None, report_html=None))  # it would patch it
    with patched((finish, "plot_run", plot), (finish, "report_html", report_html)):
        assert bt_sft.again(json.dumps(str(out)), *short).code == 0
    said = capsys.readouterr()
    assert drawn and (out / "finished.json").is_file() and (out / "report.html").is_file() and "\x1b" not in said.out
    assert "no curves" not in said.out and "no report" not in said.out
    assert bt_sft.again(json.dumps(str(out)), *short).steps == []


@pytest.mark.parametrize(
    "error", [RuntimeError("no font"), MemoryError(), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize(("what", "name"), [("_report", "report"), ("token_view", "token view")])
def test_no_picture_and_no_page_stops_a_run_from_finishing(bt_sft, tmp_path, capsys, what, name, error):
    def fail(*args, **kwargs):
        count("faults injected")
        raise error

    out = copied(bt_sft.out, tmp_path / "out", until=TOTAL)
    with patched((finish, what, fail)):
        assert bt_sft.again(out).code == 0
    said = capsys.readouterr().out
    assert f"no {name}: " in said
    assert (out / "finished.json").is_file() and differences(bt_sft.out, out) == []


def test_a_file_system_without_syncs_of_folders_and_a_checkpoint_that_stays_are_said(bt_sft, tmp_path, capsys):
    count("faults injected")
    original, rmtree = os.fsync, shutil.rmtree

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(descriptor)

    def stay(path, **options):
        if str(path).endswith("step_00000001"):
            raise PermissionError(13, "Permission denied", str(path))
        rmtree(path, **options)

    out = tmp_path / "out"
    with patched((os, "fsync", fsync), (checkpoint_module.shutil, "rmtree", stay)):
        assert bt_sft.again(out, "keep_checkpoints=1").code == 0
    said = capsys.readouterr().out
    assert said.count("does not sync folders") == 2, "once of the checkpoints, once of the results"
    assert f"the old checkpoint {checkpoint(out, 1)} cannot be removed" in said
    assert saved_steps(out) == [1, TOTAL] and differences(bt_sft.out, out) == []


def test_an_error_behind_the_progress_bar_has_a_line_of_its_own(bt_sft, tmp_path, capsys):
    def fail(self, *args):
        calls.append(1)
        if len(calls) == 10:
            count("faults injected")
            raise UserError("row 9: broken")
        return original(self, *args)

    calls, original, out = [], Batches.batch, tmp_path / "out"
    with patched((Batches, "batch", fail)):
        assert bt_sft.again(out).code == 2
    said = capsys.readouterr().err
    assert "step/s" in said and "\nerror: row 9: broken\n" in said
    lock(out)  # nobody holds it any more
    release()


def test_a_fault_that_nobody_expects_begins_a_line_too(bt_sft, tmp_path, capsys):
    def fail(self, step):
        if step == 4:
            count("faults injected")
            raise ZeroDivisionError
        return original(self, step)

    original = Evaluations.run_if_due
    with patched((Evaluations, "run_if_due", fail)), pytest.raises(ZeroDivisionError):
        bt_sft.again(tmp_path / "out")
    assert capsys.readouterr().err.endswith("\n")
