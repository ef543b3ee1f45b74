"""`cot ...`, as typed: every command, on runs that `tune run` made with copied recipes and configs."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from commands import CONFIGS, COT, ROOT, cot, must, run, tune

from cot_components.cli.main import COMMANDS, main
from cot_components.cli.shipped import recipe_for, whole_recipe
from cot_components.config import shipped_configs

SHORT = "dataset.max_rows=64 epochs=3 max_steps_per_epoch=2 batch_size=8 dataset_val.max_rows=8 evaluation.max_rows=4"
SHORT = f"{SHORT} evaluation.max_new_tokens=8 evaluate_every_n_steps=null save_every_n_steps=3".split()
SHORT.append(  # drawn at the step where an epoch begins: page and run must mean the same one
    "dataset.transforms.blur.ratio={_component_: cot_components.schedules.Anneal, first: 0.1, last: 1, num_steps: 6}"
)


@pytest.fixture(scope="module")
def copied(hub, tmp_path_factory):
    """A user's own folder with a copied recipe, a copied config, and a run of both on one process."""
    cwd = tmp_path_factory.mktemp("my set-up")
    for typed, run_it in (
        ("bt_sft .", "my_bt_sft.py --config bt_sft/quickstart"),
        ("stock_torchtune/bt_sft_tiny stock.yaml", "full_finetune_single_device --config stock.yaml"),
        ("bt_sft/quickstart my", "bt_sft --config my.yaml"),
    ):
        assert f"run it: tune run {run_it}" in must(cot(f"cp {typed}", cwd=cwd))
    recipe = (cwd / "my_bt_sft.py").read_text()
    said = 'log.say("this is my recipe")'
    (cwd / "my_bt_sft.py").write_text(recipe.replace("    log.say(", f"    {said}\n    log.say(", 1))
    printed = must(tune("my_bt_sft.py --config my.yaml", f"tokenizer.path={hub / 'model'}", *SHORT, cwd=cwd))
    assert "this is my recipe" in printed
    return cwd


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_copied_recipe_runs_on_two_processes(copied, hub):
    overrides = [f"tokenizer.path={hub / 'model'}", *SHORT, "epochs=1", "batch_size=4", "output_dir=two"]
    two = must(tune("--nproc_per_node 2 my_bt_sft.py --config my.yaml", *overrides, cwd=copied))
    assert two.count("this is my recipe") == 1 and (copied / "two" / "model" / "config.json").is_file()


def test_copies_are_the_files_that_ship(copied, here):
    theirs = (CONFIGS / "bt_sft" / "quickstart.yaml").read_text()
    assert (copied / "my.yaml").read_text() == theirs.replace("runs/bt_sft_quickstart", "runs/my")
    assert main(["cp", "icot_sft.py", "sub.py"]) == 0
    assert (here / "sub.py").read_bytes() == (ROOT / "recipes" / "cot_sft.py").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bt_sft bt_sft.py", "installed module 'bt_sft' instead of your file; try my_bt_sft.py"),
        ("bt_sft json.py", "installed module 'json'"),
        ("bt_sft __main__.py", "installed module '__main__'"),
        ("bt_sft my-recipe.py", "try my_bt_sft.py"),
        ("bt_sft/quickstart there.yaml", "there.yaml exists; --force overwrites it"),
        ("bt_sft/quickstart no/where.yaml", "no is not a folder"),
        ("bt_sft/quikstart x.yaml", "no recipe or config 'bt_sft/quikstart'; did you mean 'bt_sft/quickstart'?"),
    ],
)
def test_copies_that_are_refused(arguments, said, here, refused):
    (here / "there.yaml").write_text("mine")
    assert said in refused(main(["cp", *arguments.split()]))
    assert [path.name for path in here.iterdir()] == ["there.yaml"]
    assert (here / "there.yaml").read_text() == "mine"
    assert main(["cp", "bt_sft/quickstart", "there.yaml", "--force"]) == 0
    assert (here / "there.yaml").read_text() != "mine"


def test_ls(capsys, refused, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def shown(*words):
        assert main(["ls", *words]) == 0
        return capsys.readouterr().out

    assert re.search(r"^bt_sft +Blurred-thoughts supervised fine-tuning \(BT-SFT\)\.$", shown(), re.MULTILINE)
    assert re.search(r"^  icot_sft/gpt2_4x4 +ICoT-SI: GPT-2 Small", shown(), re.MULTILINE)
    assert set(shown("--names").split()) == set(shipped_configs()) | {
        path.stem for path in (ROOT / "recipes").glob("*.py")
    }
    assert "rft/quickstart" not in shown("shad")
    assert refused(main(["ls", "shadd"])) == "no recipe 'shadd'; did you mean 'shad'?"


def test_view_shows_what_the_run_trained_on(copied, hub):
    """The page equals, byte for byte, the one that the run itself wrote."""
    config = ["my.yaml", f"tokenizer.path={hub / 'model'}", *SHORT]
    printed = must(cot("view", *config, *["--n", "4", "--out", "tokens.html"], cwd=copied))
    assert (copied / "tokens.html").read_bytes() == (copied / "runs" / "my" / "tokens.html").read_bytes()
    assert "64 rows read, 64 kept, 0 dropped; tokens: prompt " in printed and "6 steps of 8 rows" in printed
    shown = must(cot("view --n 1 --epochs 1,2", *config, cwd=copied))
    assert re.findall(r"row 0, (.*?) ─", shown) == ["epoch 1", "epoch 2"]
    assert re.search(r"\[-.+?-\]", shown, re.DOTALL) and "blurred" in shown


def test_what_view_refuses(hub, refused):
    config = ["bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", "dataset.max_rows=16", "dataset_val=null"]
    assert refused(main(["view", *config, "epochs=3", "--epochs", "2,3"])).startswith("epochs: this run has no epoch 3")
    assert "no dataset" in refused(main(["view", "cot_eval/quickstart"]))
    assert refused(main(["view", *config, "--n", "0"])).startswith("--n must be at least 1")


@pytest.mark.parametrize("pace", [["curriculum.pace=exact"], ["curriculum.measure_every=4"]], ids=["fixed", "measured"])
def test_view_of_a_curriculum_shows_its_stages(pace, here):
    """From nothing removed to everything; of a measured pace also that the moment depends on accuracy."""
    few = ["dataset.num_rows=512", "epochs=12", "batch_size=64", *pace]
    assert main(["view", "icot_sft/quickstart", *few, "--out", "stages.html"]) == 0
    page = (here / "stages.html").read_text()
    stages = re.findall(r"<h3>step (\d+), ([\d.]+) removed(.*)</h3>", page)
    assert stages[0] == ("0", "0", "") and 'class="r thought"' in page
    assert stages[-1][1] == "9" and len({removed for _, removed, _ in stages}) > 4
    measured = pace != ["curriculum.pace=exact"]
    assert all(("accuracy" in said) == (measured and int(step) > 0) for step, _, said in stages)


def test_validate(copied, hub, monkeypatch, capsys):
    monkeypatch.chdir(copied)
    validate = ["validate", "my.yaml", f"tokenizer.path={hub / 'model'}", "batch_size=4"]
    for more, recipe in (([], "bt_sft"), (["--recipe", "my_bt_sft.py"], "my_bt_sft.py")):
        assert main([*validate, *more]) == 0
        assert f"my.yaml is valid: the recipe {recipe} takes all" in capsys.readouterr().out
    assert main(["validate", "stock_torchtune/bt_sft_tiny"]) == 0
    assert "full_finetune_single_device is torchtune's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bt_sft/quickstart --recipe bt_sfd", "--recipe bt_sfd: no such recipe; did you mean 'bt_sft'?"),
        ("bt_sft/llama3_2_1B", "model.path: no folder models/Llama-3.2-1B-Instruct"),
        ("bt_sft/quickstart dataset.source=none.jsonl", "none.jsonl: no such file or folder"),
        ("bt_sft/quickstart", "tokenizer.path: runs/tiny_llama does not exist"),
        ("bt_sft/quickstart dataset_val=/nope.jsonl", "/nope.jsonl: no such file or folder"),
        ("bt_sft/quickstart evaluation.source=no/such.txt", "no/such.txt: no such file or folder"),
        ("stock_torchtune/bt_sft_tiny loss._component_=cot_components.losses.sfft", "has no 'sfft'; did you mean"),
    ],
)
def test_configs_that_are_refused(arguments, said, here, refused):
    assert said in refused(main(["validate", *arguments.split()])) and not list(here.iterdir())


@pytest.mark.parametrize("name", ["bt_sft/quickstart", "shad/quickstart", "icot_sft/quickstart", "cot_eval/icot"])
def test_the_recipe_of_a_config_is_found(name, tmp_path):
    """By the folder it ships in, by its header, and by its keys alone, which tell no method from another."""
    recipe, path = name.split("/")[0], tmp_path / "mine.yaml"
    assert recipe_for(name).name == recipe
    text = shipped_configs()[name].read_text()
    path.write_text(text)
    assert recipe_for(str(path)).name == recipe
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert recipe_for(str(path)).name == whole_recipe(recipe).stem


def test_report_and_compare(copied, monkeypatch, capsys, refused):
    monkeypatch.chdir(copied)
    done = Path("runs/my")
    for path in ("curves.png", "report.html"):
        (done / path).unlink()

    def shown(*words):
        assert main([*words]) == 0
        return capsys.readouterr().out

    assert shown("compare", "runs/my").splitlines()[-1] == f"curves  {done / 'curves.png'}"
    assert (done / "curves.png").read_bytes().startswith(b"\x89PNG")
    shutil.copytree(done, "another")
    table = shown("compare", "runs/my", "another", "--out", "both.png")
    assert "answers correct" in table and "my" in table and "difference from my" in table
    assert Path("both.png").stat().st_size > 10_000
    shown("report", "runs/my")
    page = (done / "report.html").read_text()
    for part in ("<h2>Checkpoints</h2>", "step_00000003/", "step_00000006/", "<h2>Versions</h2>", "redraw", "<svg"):
        assert part in page, part
    shutil.copytree(done, "twin/my")
    assert re.search(r"^ +runs/my +twin/my *$", shown("compare", "runs/my", "twin/my"), re.MULTILINE)
    assert refused(main(["compare", "runs/my", "runs/my"])) == "runs/my: the same run twice"
    for picture in ("x/c.xyz", "x"):
        said = refused(main(["compare", "runs/my", "--out", picture]))
        assert said.startswith(f"{picture}: the name of a picture must end in one of ") and ".png, " in said
    assert not Path("x").exists() and not Path("x.png").exists()
    assert refused(main(["report", "nowhere"])) == "nowhere: no such run"
    assert "nowhere holds no log" in refused(main(["compare", "nowhere"]))


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_tiny_writes_what_recipes_start_from_and_spares_another_model(weights, tmp_path, refused):
    model = tmp_path / "model"
    assert main(["tiny", str(model)]) == 0
    assert json.loads((model / "config.json").read_text())["hidden_size"] == 64
    own = (model / "model.safetensors").read_bytes()
    (model / "tokenizer.json").unlink()
    assert main(["tiny", str(model)]) == 0 and (model / "tokenizer.json").is_file()
    (model / weights).write_bytes(own[:-1] + b"x")
    (model / "config.json").write_text("trained")
    said = refused(main(["tiny", str(model)]))
    assert said.startswith(f"{model / weights} is not a model written by cot tiny") and "--force" in said
    assert (model / weights).read_bytes() != own and (model / "config.json").read_text() == "trained"
    assert main(["tiny", str(model), "--force"]) == 0
    assert (model / "model.safetensors").read_bytes() == own and (model / "config.json").read_text() != "trained"


def test_doctor(tmp_path):
    here = {"PATH": f"{COT.parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    healthy = must(cot("doctor", cwd=tmp_path, env=here))
    assert healthy.endswith("all well\n") and "fix" not in healthy
    for part in (
        "torchtune           0.6.1",
        "torchtune.training  imports",
        "distributed, gloo",
        "icot_sft",
        "GPU",
        "compile=true",
    ):
        assert part in healthy, part

    (tmp_path / "torchao-0.17.0.dist-info").mkdir()
    (tmp_path / "torchao-0.17.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchao\nVersion: 0.17.0\n"
    )
    (tmp_path / "torchtune").mkdir()
    (tmp_path / "torchtune" / "__init__.py").write_text("")
    (tmp_path / "torchtune" / "training.py").write_text("from torchao.quantization import int4_weight_only_gone")
    broken = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    sick = cot("doctor", cwd=tmp_path, env=broken)
    assert sick.returncode == 1 and "4 broken" in sick.stdout, sick.stdout + sick.stderr
    for part in (
        'install "torchao<0.16,>=0.14"',
        "torchtune.training  ImportError: cannot import name 'int4_weight_only_gone'",
        f'fix  export PATH="{COT.parent}:$PATH"',
        "fix  unset HF_HUB_OFFLINE",
    ):
        assert part in sick.stdout, part


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command, tmp_path, monkeypatch):
    from cot_components.cli.main import make_parser

    shown = must(cot(command, "--help", cwd=tmp_path))
    examples = re.findall(
        rf"^  (?:eval \"\$\()?cot ({command}\b[^#|)\n]*)", shown.partition("examples:")[2], re.MULTILINE
    )
    assert examples
    for example in examples:
        parsed, rest = make_parser().parse_known_args(example.strip().rstrip('")').split())
        assert parsed.command == command and all("=" in word for word in rest)


def test_help_is_instant(tmp_path):
    probe = "import sys; from cot_components.cli.main import make_parser; make_parser().format_help(); "
    probe += "print(*{'torch', 'torchtune', 'numpy', 'omegaconf', 'rich', 'matplotlib'} & set(sys.modules))"
    assert must(run(sys.executable, "-c", probe, cwd=tmp_path)).strip() == ""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("veiw", "cot has no command 'veiw'; did you mean 'view'?"),
        ("compare x --oops", "cot compare does not know '--oops'"),
        ("view", "the following arguments are required: CONFIG"),
        ("view c --epochs x", "'x' is not a comma-separated list such as 0,1,2"),
    ],
)
def test_errors_are_sentences(typed, said, refused):
    try:
        code = main(typed.split())
    except SystemExit as end:
        code = end.code
    assert said in refused(code)
