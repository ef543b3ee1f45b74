"""Every shipped config, and every way a config can be wrong: one sentence before anything is built."""

import re
import shutil
import sys
from dataclasses import replace

import pytest
import tiny_runs
from commands import CONFIGS, ROOT, must, run, tune
from omegaconf import OmegaConf
from tiny_runs import read

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
    supplies = {"dataset": ["tokenizer"], "optimizer": ["params"], "lr_scheduler": ["optimizer", "num_training_steps"]}
    paths = [path for name, path in shipped_configs().items() if name.startswith("stock_torchtune/")]
    for path in paths:
        walk(OmegaConf.to_container(OmegaConf.load(path), resolve=True), supplies)
    assert paths


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dtype=None", "dtype must be 'bf16' or 'fp32' or 'bf16_nearest', got None"),
        ("device=null", "device must be str, got None"),
        ("normalize=mean", "normalize must be 'count' or 'weight', got 'mean'"),
        ("loss=cot_components.losses.sfft", "loss: 'cot_components.losses' has no 'sfft'; did you mean 'sft'?"),
        ("~output_dir", "missing key 'output_dir'"),
        ("~batch_sise", "~batch_sise: no such key"),
        ("~optimizer", "~optimizer: no such key in the config, or a component, which optimizer=null switches off"),
        ("batch_size", "Command-line overrides must be in the form of key=value, got batch_size"),
        ("dataset.transforms=[]", "dataset.transforms=[]: the config has keys with values there"),
        ("dataset.transforms={}", "dataset.transforms={} would change nothing"),
        ("optimizer.betas={}", "optimizer.betas={}: the config has a list there; optimizer.betas=null"),
        ("metric_logger={}", "metric_logger names no component"),
        ("optimizer.betas.0=0.8", "optimizer.betas.0=0.8: the config has a list at optimizer.betas"),
        ("optimizer.betas[1]=0.8", "optimizer.betas[1]=0.8: the config has a list at optimizer.betas"),
        ("optimizer.betas.0={}", "optimizer.betas.0={}: the config has a list at optimizer.betas"),
        ("~optimizer.betas.0", "~optimizer.betas.0: the config has a list at optimizer.betas"),
        ("optimizer.betas=[0.9", "cannot read the config or an override as YAML: "),
        ("dataset.transforms.blur.seed=${sead}", "config: Interpolation key 'sead' not found"),
    ],
)
def test_a_wrong_key_is_one_sentence(override, said):
    with pytest.raises(ConfigError) as error:
        read("bt_sft/quickstart", override)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"5\n", " is not a config: "),
        ("seed: 1\n# Größe\n".encode("latin-1"), ":2: not UTF-8 text"),
        (b"a: [1\nb: {", ":2: not YAML: "),
        (b"seed: 1\non: 1\n", ": the key True is not text"),
        (b"a:\n\t- b\n", ":2: not YAML: "),
        (b"a: 1\nb: 2\na: 3\n", ":3: not YAML: found duplicate key a (while constructing a mapping from line 1)"),
        (b"a: \x00\n", " is not a config: "),
        (b"a: ${\n", " is not a config: "),
    ],
)
def test_a_file_that_is_no_config(tmp_path, content, said):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    readers = [lambda: recipe_for(str(path))]
    readers += [
        lambda words=words: read_config(lambda: None, words, {})
        for words in (["--config", str(path)], [f"--config={path}"])
    ]
    for reads in readers:
        with pytest.raises(ConfigError) as error:
            reads()
        assert str(error.value).startswith(f"{path}{said}") and "\n" not in str(error.value)


def test_a_module_of_an_adapter_is_spelt_right():
    """A misspelt one would leave the adapter out, and train every weight."""
    model = ["model._component_=torchtune.models.llama3_2.lora_llama3_2", "model.lora_rank=4", "model.lora_alpha=8"]
    assert read("bt_sft/quickstart", *model, "model.lora_attn_modules=[q_proj,v_proj]")
    with pytest.raises(ConfigError, match=r"^model\.lora_attn_modules\[1\] must be .*; did you mean 'v_proj'\?$"):
        read("bt_sft/quickstart", *model, "model.lora_attn_modules=[q_proj,vproj]")


@pytest.mark.parametrize("node", ["tokenizer", "dataset", "model", "optimizer", "loss", "lr_scheduler", "evaluation"])
def test_a_node_without_a_component(tmp_path, refused, node):
    config = OmegaConf.load(CONFIGS / "bt_sft" / "quickstart.yaml")
    del config[node]["_component_"]
    OmegaConf.save(config, tmp_path / "my.yaml")
    assert refused(tiny_runs.run("bt_sft", [], config=tmp_path / "my.yaml")).startswith(f"{node} names no component")


def test_a_mapping_that_is_no_node():
    assert read("cot_eval/quickstart", "tags={open: <a>}")["tags"] == {"open": "<a>"}
    assert "_component_" not in read("bt_sft/quickstart")["dataset_val"]


def test_a_value_without_a_default_must_be_set():
    with pytest.raises(ConfigError, match=r"^loss\.eta has no default and must be set: loss\.eta=VALUE"):
        read("target_sft/qwen2_5_0_5B_math", "reference.model.path=DIR")


def test_names_of_configs():
    with pytest.raises(ConfigError, match="--config NAME_OR_PATH is missing"):
        read_config(lambda: None, [], {})
    assert read("bt_sft/quickstart", "evaluation=null")["evaluation"] is None


def test_a_wheel_holds_recipes_and_configs_and_runs_anywhere(hub, tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for part in ("pyproject.toml", "README.md", "LICENSE", "recipes", "configs", "cot_components"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, source / part)
    python, env = (sys.executable, "-W", "ignore"), {"PYTHONPATH": str(site)}
    must(run(*python, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    must(run(*python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=tmp_path))
    short = "evaluation=null dataset_val=null dataset.max_rows=32 epochs=1 batch_size=16 output_dir=out"
    words = f"bt_sft --config bt_sft/quickstart {short}"
    must(tune(words, f"tokenizer.path={hub / 'model'}", cwd=tmp_path, env=env))
    assert all((tmp_path / "out" / name).is_file() for name in ("model/config.json", "tokens.html", "report.html"))
    probe = "import bt_sft, cot_components, cot_components.config as c; "
    probe += "print(bt_sft.__file__, cot_components.__file__, len(c.shipped_configs()))"
    recipe, package, configs = must(run(*python, "-c", probe, cwd=tmp_path, env=env)).split()
    assert recipe.startswith(str(site)) and package.startswith(str(site)) and int(configs) == len(shipped_configs())
