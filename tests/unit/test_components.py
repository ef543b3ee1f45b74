"""A command that only looks at a config runs nothing foreign."""

import sys

import pytest
import torch
from omegaconf import OmegaConf

from cot_components.cli.main import main
from cot_components.config import build, shipped_configs, walk
from cot_components.config.components import ConfigError, locate, only_known
from cot_components.config.files import read_keys
from cot_components.losses import sft

OURS = (
    "config.components.importlib.import_module config.schema.inspect.importlib.import_module notebook.subprocess.run "
    "notebook.tune cli.main.main cli.shipped.recipe_for files.write_whole models.tiny.write_tiny_checkpoint "
    "runs.folder.shutil.rmtree data.rows.store.shutil.rmtree data.rows.store.Rows.__init__ "
    "config.schema.build.__globals__ losses.presets.partial"
)
FOREIGN = [
    *("subprocess.getoutput", "os.system", "builtins.print", "torch.hub.load", "torch.load"),
    *("torch.optim.lr_scheduler.LambdaLR", "torchtune.config.instantiate"),
    "torchtune.models.convert_weights.re.compile",
    *(f"cot_components.{path}" for path in OURS.split()),
]


@pytest.mark.parametrize("path", FOREIGN)
def test_what_is_no_component_is_refused_by_key_and_flag(path):
    with only_known(), pytest.raises(ConfigError) as error:
        locate(path, "dataset")
    said = str(error.value)
    assert said.startswith("dataset: ") and ("--allow " in said or "has no" in said or "is not a component" in said)


def test_the_flag_that_the_sentence_names_permits_it():
    for path in ("subprocess.getoutput", "cot_components.config.schema.inspect.importlib.import_module"):
        with only_known(), pytest.raises(ConfigError) as error:
            locate(path, "x")
        module = str(error.value).split("--allow ")[1].split()[0]
        with only_known([module]):
            assert callable(locate(path, "x"))


def test_known_components_are_found_and_training_finds_everything():
    with only_known():
        assert locate("torch.optim.AdamW", "x") is torch.optim.AdamW
        assert locate("cot_components.losses.sft", "x") is sft
        assert build({"_component_": "cot_components.losses.sft"}) is not None
        assert locate("cot_components.evaluation.AnswerEvaluation", "x").__name__ == "AnswerEvaluation"
        assert locate("torchtune.models.qwen2_5.qwen2_5_0_5b", "x").__name__ == "qwen2_5_0_5b"
    assert locate("os.getcwd", "x")()


def test_every_component_of_every_shipped_config_is_known():
    found = []

    def look(node):
        for key, value in node.items():
            if key == "_component_":
                found.append(locate(value, value))
            elif isinstance(value, dict):
                look(value)

    with only_known():
        for path in shipped_configs().values():
            look(OmegaConf.to_container(read_keys(path)))
    assert len(found) > 100


def test_nothing_is_imported_before_it_is_refused(tmp_path, monkeypatch, capsys):
    """Neither a component's module nor a recipe that a config's header names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "evilmod.py").write_text("import os; os.mkdir('ran')\ndef f(**kw): pass\n")
    node = "{_component_: evilmod.f}"
    for word, override in (("validate", f"metric_logger={node}"), ("view", "dataset._component_=evilmod.f")):
        assert main([word, "bt_sft/quickstart", override]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "evilmod.f" in said and "--allow evilmod" in said
    for name in ("evilmod", "evilmod.py", "./evilmod.py"):
        (tmp_path / "c.yaml").write_text(f"# tune run {name} --config c.yaml\n\noutput_dir: out\n")
        assert main(["validate", "c.yaml"]) == 2
        assert "--allow evilmod" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert main(["validate", "c.yaml", "--allow", "evilmod.py"]) == 2, "it is not a recipe, but it was asked for"
    assert (tmp_path / "ran").exists()


def test_a_saved_config_of_somebody_else_runs_nothing(tmp_path, capsys):
    """`cot speed` builds what a run's config names."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    bomb = f"{{_component_: subprocess.getoutput, cmd: 'touch {tmp_path}/ran'}}"
    nodes = "".join(f"{key}: {bomb}\n" for key in ("dataset", "tokenizer", "model", "evaluation"))
    (tmp_path / "config.yaml").write_text(f"device: cpu\ndtype: fp32\n{nodes}")
    assert main(["speed", str(tmp_path)]) == 2
    assert "--allow subprocess" in capsys.readouterr().err and not (tmp_path / "ran").exists()


def test_checking_a_config_is_a_look_too():
    with only_known(), pytest.raises(ConfigError, match=r"a\.b: 'os\.system'"):
        walk({"a": {"b": {"_component_": "os.system", "command": "true"}}})
