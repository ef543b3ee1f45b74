"""What a run starts from and where its results go: never written over, never something else after a resume."""

import json
import shutil

import pytest
from tally import count
from tiny_runs import checkpoint, copied, patched

from cot_components.models.reference import FrozenModel


@pytest.mark.parametrize("name", ["checkpoints", "evaluations", "model", "adapter", "log.jsonl", "report.html"])
def test_what_lies_where_results_go_is_refused_at_the_start(bt_sft, tmp_path, capsys, name):
    count("faults injected")
    out = tmp_path / "out"
    if "." in name:
        (out / name).mkdir(parents=True)
        what = "is a folder, and the run writes a file there; move it"
    else:
        out.mkdir()
        (out / name).write_text("notes")
        what = "is a file, and the run makes a folder of that name; move it"
    seen = bt_sft.again(out)
    assert seen.code == 2 and seen.steps == [] and not (out / "config.yaml").exists()
    assert f"error: output_dir: {out / name} {what}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "folder"),
    [
        ("model.path", "model"),
        ("reference.model.path", "model"),
        ("reference.model.path", "adapter"),
        ("tokenizer.path", "model"),
    ],
)
def test_starting_weights_are_not_overwritten(undisturbed, hub, tmp_path, capsys, key, folder):
    """Not by another way to the same folder either."""
    count("faults injected")
    out, link = tmp_path / "out", tmp_path / "link"
    shutil.copytree(hub / "model", out / folder)
    link.symlink_to(out)
    assert undisturbed("target_sft").again(out, f"{key}={link / folder}").code == 2
    said = f"{key}: {link / folder} is where this run would write its own model; name another output_dir"
    assert said in capsys.readouterr().err
    names = [path.name for path in (hub / "model").iterdir()]
    assert names and all((hub / "model" / n).read_bytes() == (out / folder / n).read_bytes() for n in names)


def test_a_run_that_has_overwritten_its_start_is_still_finished(undisturbed, hub, tmp_path, capsys):
    out, start = tmp_path / "out", tmp_path / "start"
    start.symlink_to(hub / "model")
    for place in (hub / "model", out / "model"):
        start.unlink()
        start.symlink_to(place)
        assert undisturbed("target_sft").again(out, f"model.path={start}").code == 0
    assert f"{out} holds this run and it is finished" in capsys.readouterr().out


def test_another_teacher_is_refused(undisturbed, tmp_path, capsys):
    count("faults injected")
    run = undisturbed("target_sft")
    out = copied(run.out, tmp_path / "out", until=2)
    with patched((FrozenModel, "key", lambda self: "0" * 64)):
        assert run.again(out).code == 2
    assert "resume: the content of the reference's weights" in capsys.readouterr().err


def test_frozen_weights_are_noted_only_where_there_are_some(undisturbed):
    plans = [
        json.loads((checkpoint(undisturbed(name).out, 2) / "state.json").read_text())["plan"]
        for name in ("bt_sft", "target_sft")
    ]
    assert ["reference" in plan for plan in plans] == [False, True] and not any("base" in plan for plan in plans)
