"""Every shipped config, and every way a config can be wrong: one sentence before anything is built."""

import importlib
import re
import shutil
import sys
from dataclasses import replace

import pytest
from commands import CONFIGS, ROOT, must, run, tune, user_error
from omegaconf import OmegaConf
from recipes_for_tests import read

from cot_components.cli.shipped import recipe_for
from cot_components.clock import Clock
from cot_components.config import ConfigError, build, shipped_configs, walk
from cot_components.models.gpt2_bpe import compact_tokenizer
from cot_components.schedules import Schedule
from cot_components.training.recipe import read_config
from cot_components.transforms.remove import Remove

OF_OUR_RECIPES = sorted(name for name in shipped_configs() if not name.startswith("stock_torchtune/"))


def test_all_configs_are_shipped():
    on_disk = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert set(shipped_configs()) == on_disk and len(on_disk) >= 7


@pytest.mark.parametrize("name", OF_OUR_RECIPES)
def test_config_is_valid_and_says_how_to_run_it(name):
    to_be_set = [f"{key}=0.5" for key in OmegaConf.missing_keys(OmegaConf.load(CONFIGS / f"{name}.yaml"))]
    to_be_set = [re.sub(r"(dir|path|source)=0\.5$", r"\1=DIR", key) for key in to_be_set]
    assert read(name, *to_be_set)["output_dir"] == f"runs/{name.replace('/', '_')}"
    header = (CONFIGS / f"{name}.yaml").read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--config {name}" in header
    assert "Result" in header or "quickstart" in name
    fits = re.search(r"One GPU of (24|40|80) GB holds|\d+ GPUs of 80 GB hold", header)
    assert fits or "# Memory" not in header


@pytest.mark.parametrize("name", [name for name in OF_OUR_RECIPES if name.endswith(("_gsm8k", "_gsm8k_lora"))])
def test_gsm8k_configs_leave_out_a_row_only_while_it_is_too_long(name, tmp_path):
    long, short = ("<<1+1=2>> " * times for times in (40, 1))
    (tmp_path / "train.txt").write_text(f"how many?||{long}#### 2\nhow much?||{short}#### 2\n")
    node = {**read(name)["dataset"], "source": str(tmp_path / "train.txt"), "cache_dir": None}
    data = build(node, compact_tokenizer())
    remove = Remove(schedule=Schedule(ticks_per_epoch=1, per_epoch=360), smoothing=float("inf"))
    batches = replace(data, transforms={"remove": remove, **data.transforms}).batches()
    assert len(data.rows) == 2 and data.rows.lengths[0] > 150
    assert [batches.batch([0], Clock(step, step)).num_supervised > 0 for step in (0, 1)] == [False, True]
    assert batches.batch([1], Clock(0, 0)).num_supervised > 0


def test_stock_configs_name_components_that_exist():
    names = [name for name in shipped_configs() if name.startswith("stock_torchtune/")]
    for name in names:
        config = OmegaConf.to_container(OmegaConf.load(shipped_configs()[name]), resolve=True)
        supplies = {
            "dataset": ["tokenizer"],
            "optimizer": ["params"],
            "lr_scheduler": ["optimizer", "num_training_steps"],
        }
        walk(config, supplies)
    assert names


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["batch_sise=4"], "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        (["dataset.transforms.blur.ration=1"], "unknown key 'dataset.transforms.blur.ration'; did you mean 'ratio'?"),
        (["seed=null"], "seed must be int, got None"),
        (["batch_size=two"], "batch_size must be int, got 'two' (str)"),
        (["dtype=None"], "dtype must be 'bf16' or 'fp32' or 'bf16_nearest', got None"),
        (["device=null"], "device must be str, got None"),
        (["normalize=mean"], "normalize must be 'count' or 'weight', got 'mean' (str)"),
        (["loss=cot_components.losses.sfft"], "loss: 'cot_components.losses' has no 'sfft'; did you mean 'sft'?"),
        (["~output_dir"], "missing key 'output_dir'"),
        (["~batch_sise"], "~batch_sise: no such key in the config, or a component, which batch_sise=null switches off"),
        (["~optimizer"], "~optimizer: no such key in the config, or a component, which optimizer=null switches off"),
        (["batch_size"], "Command-line overrides must be in the form of key=value, got batch_size"),
        (
            ["dataset.transforms=[]"],
            "dataset.transforms=[]: the config has keys with values there; dataset.transforms=null switches it off",
        ),
        (
            ["dataset.transforms={}"],
            "dataset.transforms={} would change nothing in the config; dataset.transforms=null switches it off",
        ),
        (
            ["optimizer.betas={}"],
            "optimizer.betas={}: the config has a list there; optimizer.betas=null switches it off",
        ),
        (
            ["metric_logger={}"],
            "metric_logger names no component: set metric_logger._component_, or metric_logger=null",
        ),
        *(
            ([override], f"{override}: the config has a list at optimizer.betas; optimizer.betas=[...] sets all of it")
            for override in ("optimizer.betas.0=0.8", "optimizer.betas[1]=0.8", "optimizer.betas.0={}")
        ),
        (
            ["~optimizer.betas.0"],
            "~optimizer.betas.0: the config has a list at optimizer.betas; optimizer.betas=[...] sets all of it",
        ),
        (["dataset.transforms.blur.seed=${sead}"], "config: Interpolation key 'sead' not found"),
    ],
)
def test_a_wrong_key_is_one_sentence(overrides, sentence):
    with pytest.raises(ConfigError) as error:
        read("bt_sft/quickstart", *overrides)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- a\n- b\n", "{path} is no config: it holds a list, not keys with values"),
        (b"5\n", "{path} is no config: Invalid loaded object type: int"),
        ("seed: 1\n# Größe\n".encode("latin-1"), "{path}:2: not UTF-8 text (invalid "),
        (b"a: [1\nb: {", "{path}:2: no YAML: "),
        (b"seed: 1\non: 1\n", "{path}: the key True is not text; put it in quotes"),
        (b"a:\n\t- b\n", "{path}:2: no YAML: found character"),
        (b"a: 1\nb: 2\na: 3\n", "{path}:3: no YAML: found duplicate key a (while constructing a mapping from line 1)"),
        (b"a: \x00\n", "{path} is no config: unacceptable character"),
        (b"a: ${\n", "{path} is no config: "),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, sentence):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    for words in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(ConfigError) as error:
            read_config(lambda: None, words, {})
        assert str(error.value).startswith(sentence.format(path=path))
    with pytest.raises(ConfigError) as error:
        recipe_for(str(path))
    assert str(error.value).startswith(sentence.format(path=path)) and "\n" not in str(error.value)


def test_an_override_as_yaml():
    with pytest.raises(ConfigError, match=r"^cannot read the config or an override as YAML: "):
        read("bt_sft/quickstart", "optimizer.betas=[0.9")


def test_a_module_of_an_adapter_is_spelt_right():
    """A misspelt one would leave the adapter out, and train every weight."""
    model = ["model._component_=torchtune.models.llama3_2.lora_llama3_2", "model.lora_rank=4", "model.lora_alpha=8"]
    assert read("bt_sft/quickstart", *model, "model.lora_attn_modules=[q_proj,v_proj]")
    with pytest.raises(ConfigError, match=r"^model\.lora_attn_modules\[1\] must be .*; did you mean 'v_proj'\?$"):
        read("bt_sft/quickstart", *model, "model.lora_attn_modules=[q_proj,vproj]")


@pytest.mark.parametrize("node", ["tokenizer", "dataset", "model", "optimizer", "loss", "lr_scheduler", "evaluation"])
def test_a_node_without_a_component(tmp_path, node):
    config = OmegaConf.load(CONFIGS / "bt_sft" / "quickstart.yaml")
    del config[node]["_component_"]
    OmegaConf.save(config, tmp_path / "my.yaml")
    recipe = importlib.import_module("bt_sft")
    with pytest.raises(ConfigError, match=rf"^{node} names no component: set {node}\._component_"):
        read_config(recipe.main.__wrapped__, ["--config", str(tmp_path / "my.yaml")], recipe.main.supplies)


def test_a_mapping_that_is_no_node():
    assert read("cot_eval/quickstart", "tags={open: <a>}")["tags"] == {"open": "<a>"}
    assert "_component_" not in read("bt_sft/quickstart")["dataset_val"]


def test_a_value_without_a_default_must_be_set():
    with pytest.raises(ConfigError, match=r"^loss\.eta has no default and must be set: loss\.eta=VALUE"):
        read("target_sft/qwen2_5_0_5B_math", "reference.model.path=DIR")


def test_names_of_configs():
    with pytest.raises(ConfigError, match="did you mean 'bt_sft/quickstart'"):
        read_config(lambda: None, ["--config", "bt_sft/quikstart"], {})
    with pytest.raises(ConfigError, match="--config NAME_OR_PATH is missing"):
        read_config(lambda: None, [], {})
    assert read("bt_sft/quickstart", "evaluation=null")["evaluation"] is None


def test_as_typed(tmp_path):
    result = tune("bt_sft", "--config", "bt_sft/quickstart", "batch_sise=4", cwd=tmp_path)
    assert user_error(result) == "unknown key 'batch_sise'; did you mean 'batch_size'?"
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_holds_recipes_and_configs_and_runs_anywhere(hub, tmp_path):
    python = sys.executable
    source = tmp_path / "source"
    for part in ("pyproject.toml", "README.md", "LICENSE", "recipes", "configs", "cot_components"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(ROOT / part, source / part)
    must(run(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    must(run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=tmp_path))
    overrides = [
        f"tokenizer.path={hub / 'model'}",
        "evaluation=null",
        "dataset_val=null",
        "dataset.max_rows=32",
        "epochs=1",
        "batch_size=16",
    ]
    result = tune(
        "bt_sft",
        "--config",
        "bt_sft/quickstart",
        *overrides,
        "output_dir=out",
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
    )
    must(result)
    assert all((tmp_path / "out" / name).is_file() for name in ("model/config.json", "tokens.html", "report.html"))
    probe = "import bt_sft, cot_components, cot_components.config as c; "
    probe += "print(bt_sft.__file__, cot_components.__file__, len(c.shipped_configs()))"
    where = must(run(python, "-W", "ignore", "-c", probe, cwd=tmp_path, env={"PYTHONPATH": str(site)})).split()
    assert where[0].startswith(str(site)) and where[1].startswith(str(site)) and int(where[2]) == len(shipped_configs())
