"""The loggers of docs/export.md, as their YAML is written there: a run fills them with the numbers of `log.jsonl`."""

import json
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from commands import ROOT
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TOTAL, overrides_for, run

from cot_components.config import find_config

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def logged(name, hub, folder, monkeypatch):
    """The records of a run with the logger of that name; the run's folder is the page's `runs/my`."""
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if name in text]
    monkeypatch.chdir(folder)
    config = OmegaConf.merge(OmegaConf.load(find_config("bt_sft/quickstart")), OmegaConf.create(block))
    OmegaConf.save(config, "my.yaml")
    arguments = [*overrides_for("bt_sft", hub), "output_dir=runs/my", "save_every_minutes=null"]
    assert run("bt_sft", arguments, config="my.yaml").code == 0
    records = [json.loads(line) for line in (folder / "runs" / "my" / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "objective" in record]


def test_tensorboard_has_the_numbers_of_the_log(hub, tmp_path, monkeypatch):
    records = logged("TensorBoardLogger", hub, tmp_path, monkeypatch)
    events = EventAccumulator(
        str(tmp_path / "runs" / "my" / "tensorboard"), size_guidance={"tensors": 0}
    )  # 0 keeps all
    events.Reload()
    found = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("objective")]
    assert found == [(record["step"], pytest.approx(record["objective"], rel=1e-5)) for record in records]
    assert len(found) == TOTAL


def test_weights_and_biases_gets_the_numbers_of_the_log(hub, tmp_path, monkeypatch):
    """A module that stands for `wandb` notes what it is called with; the real one, offline, was tried by hand."""
    calls, notes = [], []
    fake = ModuleType("wandb")
    labelled = SimpleNamespace(_label=lambda **_: None)

    def init(**settings):
        calls.append(settings)
        fake.run = labelled
        return labelled

    fake.run, fake.init, fake.log, fake.finish = None, init, notes.append, lambda: calls.append("finished")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    records = logged("WandBLogger", hub, tmp_path, monkeypatch)
    (settings, *ends) = calls
    assert settings["project"] == "my-project" and settings["mode"] == "offline" and settings["dir"] == "runs/my"
    assert "finished" in ends
    found = [(note["global_step"], note["objective"]) for note in notes if "objective" in note]
    assert found == [(record["step"], pytest.approx(record["objective"], rel=1e-5)) for record in records]
