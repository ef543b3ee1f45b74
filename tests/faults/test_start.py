"""What a run starts from and where its results go: never written over, never something else after a resume."""

import json
import shutil

import pytest
from tally import count
from tiny_runs import checkpoint, copied, patched

from cot_components.models.reference import FrozenModel


@pytest.mark.parametrize("name", ["checkpoints", "evaluations", "model", "adapter", "log.jsonl", "report.html"])
def test_what_lies_where_results_go_is_refused_at_the_start(bt_sft, tmp_path, refused, name):
    count("faults injected")
    out = tmp_path / "out"
    out.mkdir()
    if "." in name:
        (out / name).mkdir()
    else:
        (out / name).write_text("notes")
    what = "folder, but the run writes a file" if "." in name else "file, but the run needs a folder"
    assert refused(bt_sft.again(out)).startswith(f"output_dir: {out / name} is a {what}")
    assert not (out / "config.yaml").exists()


@pytest.mark.parametrize(
    ("key", "folder"),
    [(f"{node}.path", "model") for node in ("model", "reference.model", "tokenizer")]
    + [("reference.model.path", "adapter")],
)
def test_starting_weights_are_not_overwritten(undisturbed, hub, tmp_path, refused, key, folder):
    """Not by another way to the same folder either."""
    count("faults injected")
    out, link = tmp_path / "out", tmp_path / "link"
    shutil.copytree(hub / "model", out / folder)
    link.symlink_to(out)
    said = refused(undisturbed("target_sft").again(out, f"{key}={link / folder}"))
    assert said.startswith(f"{key}: {link / folder} is where this run would write its own model")
    names = [path.name for path in (hub / "model").iterdir()]
    assert names and all((hub / "model" / n).read_bytes() == (out / folder / n).read_bytes() for n in names)


def test_a_run_that_has_overwritten_its_start_is_still_finished(undisturbed, hub, tmp_path, capsys):
    out, start = tmp_path / "out", tmp_path / "start"
    start.symlink_to(hub / "model")
    for place in (hub / "model", out / "model"):
        start.unlink()
        start.symlink_to(place)
        assert undisturbed("target_sft").again(out, f"model.path={start}").code == 0
    assert f"{out} holds this run, already finished" in capsys.readouterr().out


def test_another_teacher_is_refused(undisturbed, tmp_path, refused):
    count("faults injected")
    run = undisturbed("target_sft")
    out = copied(run.out, tmp_path / "out", until=2)
    with patched((FrozenModel, "key", lambda self: "0" * 64)):
        assert refused(run.again(out)).startswith("resume: the content of the reference's weights")


def test_frozen_weights_are_noted_only_where_there_are_some(undisturbed):
    plans = [
        json.loads((checkpoint(undisturbed(name).out, 2) / "state.json").read_text())["plan"]
        for name in ("bt_sft", "target_sft")
    ]
    assert ["reference" in plan for plan in plans] == [False, True] and not any("base" in plan for plan in plans)
