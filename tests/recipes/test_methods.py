"""Every method by its name: it trains as typed, leaves what a user looks for, and refuses what does not fit."""

import importlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from commands import CONFIGS, ROOT, must, tune, user_error
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tiny_runs import TOTAL, overrides_for, run

from cot_components.cli.main import main
from cot_components.cli.shipped import whole_recipe
from cot_components.models.export import save_pretrained
from cot_components.models.tiny import tiny_llama
from cot_components.runs.log import read_log

SHORT = ["epochs=1", "evaluation=null", "dataset_val=null", "gradient_accumulation_steps=1", "batch_size=8"]


class Method(NamedTuple):
    """What its token view shows first, the node that a name cannot do without, what its run prints and logs."""

    shows: str
    node: str | None = None
    prints: tuple[str, ...] = ()
    records: tuple[str, ...] = ()


BY_CLASS = ("loss_reasoning", "loss_boilerplate")
METHODS = {
    "bt_sft": Method(
        "epoch 0", None, ("thought, mean tokens", "loss on thoughts", "loss on blurred", "loss on answers")
    ),
    "cot_sft": Method("step 0, 0 removed", None, ("reasoning",), ("removed", *BY_CLASS)),
    "icot_sft": Method("step 0, 0 removed", "curriculum", (), ("stage", "removed", "thought_tokens")),
    "rft": Method("every time", "loss.weight_rule", ("supervised tokens are reasoning",), BY_CLASS),
    "target_sft": Method("every time", None, ("loss on answers",)),
}


@dataclass
class Finished:
    name: str
    printed: str
    out: Path

    def steps(self):
        return [record for record in read_log(self.out) if "objective" in record]


@pytest.fixture(scope="module", params=METHODS)
def finished(request, hub, tmp_path_factory):
    """A tiny run of the quickstart, from its shipped name, in a folder that is not the repository."""
    name, cwd = request.param, tmp_path_factory.mktemp("anywhere")
    words = [*overrides_for(name, hub), "output_dir=out"]
    return Finished(name, must(tune(f"{name} --config {name}/quickstart", *words, cwd=cwd)), cwd / "out")


def test_it_prints_before_and_after(finished):
    said = ("answers correct", "speed: ", "of the positions hold a token", "time waiting for data")
    for part in (*said, *METHODS[finished.name].prints, "model", "tokens.html", "curves.png"):
        assert part in finished.printed, part


def test_it_leaves_a_log_by_role(finished):
    records = finished.steps()
    assert [record["step"] for record in records] == list(range(TOTAL))
    held = {"loss", "loss_answer", "supervised_fraction", "tokens_per_second", "lr", "grad_norm"}
    for record in records:
        assert {*held, *METHODS[finished.name].records} <= set(record)
        assert 0 < record["supervised_fraction"] < 1 and record["loss"] > 0
    if finished.name == "bt_sft":
        assert [record["step"] for record in records if "loss_blurred" in record] == [0, 3, 6, 9]
    found = [record for record in read_log(finished.out) if "answer_accuracy" in record]
    assert [record["step"] for record in found] == [0, 4, 8, TOTAL]
    assert finished.name == "icot_sft" or found[-1]["val_loss"] < found[0]["val_loss"]


def test_it_leaves_pictures_evaluations_and_its_config(finished):
    out = finished.out
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG") and (out / "config.yaml").is_file()
    page = (out / "tokens.html").read_text()
    assert f"<th>{METHODS[finished.name].shows}</th>" in page and "http://" not in page and "https://" not in page
    saved = json.loads((out / "evaluations" / f"step_{TOTAL}.json").read_text())
    assert len(saved["examples"]) == 3 and bool(saved["losses"]) == (finished.name != "icot_sft")


def test_its_samples_stand_side_by_side(finished, tmp_path, capsys, refused):
    assert main(["samples", str(finished.out), "--n", "2"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown and "step 12" in shown and len(re.findall("wrong:|right:", shown)) == 4
    assert "has no evaluation" in refused(main(["samples", str(tmp_path)]))
    assert "--n " in refused(main(["samples", str(finished.out), "--n", "0"]))


def test_a_second_run_does_not_write_over_the_first(finished, hub, refused):
    words, log = [*overrides_for(finished.name, hub), f"output_dir={finished.out}"], finished.out / "log.jsonl"
    before = log.read_bytes()
    another = "a run with another config (epochs was 2, is 3)"
    assert another in refused(run(finished.name, [*words, "epochs=3"]))
    assert "already holds a run" in refused(run(finished.name, [*words, "resume=never"]))
    if finished.name == "bt_sft":
        assert another in user_error(tune("bt_sft --config bt_sft/quickstart", *words, "epochs=3", cwd=finished.out))
    assert log.read_bytes() == before


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_a_few_lines_around_the_one_recipe(name):
    module, cot_sft = importlib.import_module(name), importlib.import_module("cot_sft")
    assert inspect.unwrap(module.main) is inspect.unwrap(cot_sft.main)
    assert module.main.requires == tuple(filter(None, [METHODS[name].node]))
    assert module.main.supplies == cot_sft.main.supplies
    body = (ROOT / "recipes" / f"{name}.py").read_text().split('"""')[2]
    assert name == "cot_sft" or len(body.split("\n")) < 12
    assert whole_recipe(name) == ROOT / "recipes" / "cot_sft.py"


@pytest.mark.parametrize(
    ("name", "config", "without"),
    [
        ("icot_sft", "icot_sft/quickstart", "curriculum=null"),
        ("icot_sft", "bt_sft/quickstart", "seed=0"),
        ("rft", "rft/quickstart", "loss.weight_rule=null"),
        ("rft", "bt_sft/quickstart", "seed=0"),
    ],
)
def test_a_missing_node_is_refused_never_trained_without(name, config, without, tmp_path, refused):
    """By the run and by `cot validate` with the same sentence, which names the key and the recipe that would train."""
    said = refused(run(name, [without, f"output_dir={tmp_path / 'out'}"], config=config))
    assert said.startswith(METHODS[name].node) and "cot_sft" in said
    assert refused(main(["validate", config, without, "--recipe", name])) == said
    assert not (tmp_path / "out").exists()


REFUSED_BY_ALL = [
    ("batch_sise=4", "unknown key 'batch_sise'; did you mean 'batch_size'?"),
    ("save_every_n_steps=0", "save_every_n_steps must be positive"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate"),
    ("loss=cot_components.losses.sfft", "loss: 'cot_components.losses' has no 'sfft'; did you mean 'sft'?"),
    ("resume=nowhere", "resume: no folder"),
]
REFUSED = {
    # name: [(overrides of its tiny quickstart, what the sentence must name)]
    "bt_sft": [
        ("dataset.transforms.blur.ratio=2", "ratio"),
        ("dataset.transforms.blur.granularity=word", "dataset.transforms.blur.granularity must be"),
    ],
    "cot_sft": [
        ("reference=null", "in the key 'reference'"),
        ("packed_tokens=600", "packed_tokens"),
        ("dataset.transforms.classes=null", "loss.weight_rule"),
    ],
    "rft": [
        ("dataset.transforms=null", "loss.weight_rule"),
        ("dataset.subset=json", "was scored with other tokens"),
        ("dataset.max_rows=46", "row 44 has no scores"),
        ("dataset.tags.open=<t> dataset.tags.close=</t> dataset.max_rows=46", "has no scores"),
        ("dataset.transforms.highlight.scores=nowhere", "nowhere: no scores here"),
        ("loss.weight_rule.group_by=batch", "gradient_accumulation_steps"),
        ("loss.weight_rule.tau=0", "tau must be above 0"),
        ("loss.weight_rule.reduce=max", "loss.weight_rule.reduce must be"),
    ],
    "target_sft": [
        ("reference=null", "in the key 'reference'"),
        ("loss=cot_components.losses.sft ~loss.eta", "remove it in the key 'reference'"),
        ("loss.eta=1.5", "eta"),
        ("reference.model.path={tmp}/other", "its vocabulary has 400 tokens, the model's has 384"),
    ],
    "icot_sft": [
        ("model.max_seq_len=16", "row 0, the longest, has"),
        ("curriculum.partial=false curriculum.per_epoch=1 epochs=3", "removed whole only after "),
        ("curriculum.partial=false curriculum.per_epoch=0", "per_epoch is 0"),
        ("curriculum.unit=step", "unit is 'step'"),
        ("curriculum.side=up", "curriculum.side"),
    ],
}


@pytest.mark.parametrize(
    ("name", "overrides", "said"), [(name, *case) for name in METHODS for case in REFUSED_BY_ALL + REFUSED[name]]
)
def test_what_does_not_fit_is_one_sentence(hub, tmp_path, monkeypatch, refused, name, overrides, said):
    monkeypatch.chdir(tmp_path)
    if "{tmp}" in overrides:
        save_pretrained(tiny_llama(400), tmp_path / "other")
    words = [*overrides_for(name, hub), *overrides.format(tmp=tmp_path).split(), "output_dir=out"]
    assert said in refused(run(name, words))
    assert not (tmp_path / "out" / "model").exists()


def objectives(name, hub, out, *overrides, config=None, recipe=None):
    """Loss and objective of every step of one epoch of a method's tiny quickstart."""
    words = [*overrides_for(name, hub), *SHORT, f"output_dir={out}", *overrides]
    if "reference=null" in overrides:
        words = [word for word in words if not word.startswith("reference.")]
    assert run(recipe or name, words, config=config or f"{name}/quickstart").code == 0
    return [(record["loss"], record["objective"]) for record in read_log(out) if "objective" in record]


@pytest.mark.parametrize("change", [None, "tau", "shares", "batch", "blur and target"])
def test_classes_weigh_the_loss(hub, tmp_path, change):
    """Each variant trains, and differs from plain fine-tuning on the same steps from the first objective on."""
    rule, target = "loss.weight_rule", "cot_components.losses.target_sft"
    variants = {
        "tau": [f"{rule}.tau=1.0"],
        "shares": [f"{rule}._component_=cot_components.losses.GroupShares", f"~{rule}.tau", f"{rule}.shares=[0.3,0.7]"],
        "batch": [f"{rule}.group_by=batch", f"{rule}.reduce=sum"],
        "blur and target": [f"loss._component_={target}", "loss.eta=0.5"],
    }
    config = None
    if change == "blur and target":  # Target-SFT's distribution, RFT's weights and blurred thoughts in one file
        values = OmegaConf.load(CONFIGS / "rft" / "quickstart.yaml")
        values.dataset.transforms.blur = {"_component_": "cot_components.transforms.Blur", "ratio": 0.3}
        teacher = {"_component_": "cot_components.models.from_folder", "path": str(hub / "teacher")}
        values.reference = {"_component_": "cot_components.models.FrozenModel", "model": teacher}
        OmegaConf.save(values, config := tmp_path / "composed.yaml")
    weighed = objectives("rft", hub, tmp_path / "out", *variants.get(change, []), config=config)
    assert len(weighed) == 6 and all(objective > 0 for _, objective in weighed)
    assert weighed[0][1] != pytest.approx(weighed[0][0], rel=1e-3)
    if change is None:
        plain = objectives("rft", hub, tmp_path / "plain", f"{rule}=null", recipe="cot_sft")
        assert plain[0] == pytest.approx((weighed[0][0],) * 2, rel=1e-5) and plain[-1][0] != weighed[-1][0]


def test_a_teacher_and_eta_decide_the_target(hub, tmp_path):
    """The teacher moves the objective; `eta: 0` is DFT, which needs none."""
    taught = objectives("target_sft", hub, tmp_path / "taught", "optimizer.lr=1e-2")
    assert taught[0][1] != pytest.approx(taught[0][0], rel=1e-4) and taught[-1][1] < taught[0][1]
    eta0 = objectives("target_sft", hub, tmp_path / "eta0", "loss.eta=0.0")
    no_teacher = ["loss=cot_components.losses.dft", "~loss.eta", "reference=null"]
    same = objectives("target_sft", hub, tmp_path / "dft", *no_teacher)
    assert len(same) == 6 and same[0][0] != same[-1][0] and eta0[0][1] != pytest.approx(taught[0][1], rel=1e-4)
    assert [loss for loss, _ in eta0] == pytest.approx([loss for loss, _ in same], rel=1e-4)  # equal gradients


def test_the_model_itself_with_its_adapters_off_is_a_reference(hub, tmp_path):
    """ASFT of a LoRA model: only adapters train, and the exported folder holds them merged."""
    values = OmegaConf.load(CONFIGS / "target_sft" / "quickstart.yaml")
    values.reference = {"_component_": "cot_components.models.AdaptersOff"}
    OmegaConf.save(values, tmp_path / "lora.yaml")
    words = [word for word in overrides_for("target_sft", hub) if "reference" not in word]
    words += ["model.lora.rank=4", "model.lora.alpha=8", "model.lora.targets=[q_proj,v_proj]", "optimizer.lr=1e-2"]
    words += ["loss=cot_components.losses.asft", "~loss.eta", *SHORT, f"output_dir={tmp_path / 'out'}"]
    assert run("target_sft", words, config=tmp_path / "lora.yaml").code == 0
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (hub, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed
    assert all("q_proj" in name or "v_proj" in name for name in changed)
