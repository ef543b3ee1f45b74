"""`cot ...`, as typed: every command, on runs that `tune run` made with copied recipes and configs."""

import json
import os
import re
import shutil
import sys

import pytest
from commands import CONFIGS, COT, ROOT, cot, must, run, tune, user_error

from cot_components.cli.main import COMMANDS, main
from cot_components.cli.shipped import recipe_for, whole_recipe
from cot_components.config import shipped_configs

SHORT = [
    "dataset.max_rows=64",
    "epochs=3",
    "max_steps_per_epoch=2",
    "batch_size=8",
    "dataset_val.max_rows=8",
    "evaluation.max_rows=4",
    "evaluation.max_new_tokens=8",
    "evaluate_every_n_steps=null",
    "save_every_n_steps=3",
    # drawn at the step where an epoch begins: page and run must mean the same one
    "dataset.transforms.blur.ratio={_component_: cot_components.schedules.Anneal, first: 0.1, last: 1, num_steps: 6}",
]


@pytest.fixture(scope="module")
def copied(hub, tmp_path_factory):
    """A user's own folder with a copied recipe, a copied config, and a run of both on one process."""
    cwd = tmp_path_factory.mktemp("my set-up")
    printed = must(cot("cp", "bt_sft", ".", cwd=cwd))
    assert "run it: tune run my_bt_sft.py --config bt_sft/quickstart" in printed
    stock = must(cot("cp", "stock_torchtune/bt_sft_tiny", "stock.yaml", cwd=cwd))
    assert "run it: tune run full_finetune_single_device --config stock.yaml" in stock
    assert "run it: tune run bt_sft --config my.yaml" in must(cot("cp", "bt_sft/quickstart", "my", cwd=cwd))
    recipe = (cwd / "my_bt_sft.py").read_text()
    (cwd / "my_bt_sft.py").write_text(
        recipe.replace("    log.say(", '    log.say("this is my recipe")\n    log.say(', 1)
    )
    printed = must(tune("my_bt_sft.py", "--config", "my.yaml", f"tokenizer.path={hub / 'model'}", *SHORT, cwd=cwd))
    assert "this is my recipe" in printed
    return cwd


def test_a_copied_recipe_runs_on_two_processes(copied, hub):
    overrides = [f"tokenizer.path={hub / 'model'}", *SHORT, "epochs=1", "batch_size=4", "output_dir=two"]
    two = must(tune("--nproc_per_node", "2", "my_bt_sft.py", "--config", "my.yaml", *overrides, cwd=copied))
    assert two.count("this is my recipe") == 1 and (copied / "two" / "model" / "config.json").is_file()


def test_copies_are_the_files_that_ship(copied, tmp_path):
    theirs = (CONFIGS / "bt_sft" / "quickstart.yaml").read_text()
    assert (copied / "my.yaml").read_text() == theirs.replace("runs/bt_sft_quickstart", "runs/my")
    must(cot("cp", "icot_sft.py", "sub.py", cwd=tmp_path))
    assert (tmp_path / "sub.py").read_bytes() == (ROOT / "recipes" / "cot_sft.py").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["bt_sft", "bt_sft.py"],
            "tune would run the installed module 'bt_sft' instead of your file; try my_bt_sft.py",
        ),
        (["bt_sft", "json.py"], "tune would run the installed module 'json'"),
        (["bt_sft", "__main__.py"], "tune would run the installed module '__main__'"),
        (["bt_sft", "my-recipe.py"], "tune runs a recipe as a module, so its name must be one; try my_bt_sft.py"),
        (["bt_sft/quickstart", "there.yaml"], "there.yaml exists; --force overwrites it"),
        (["bt_sft/quickstart", "no/where.yaml"], "no is no folder"),
        (["bt_sft/quikstart", "x.yaml"], "no recipe or config 'bt_sft/quikstart'; did you mean 'bt_sft/quickstart'?"),
    ],
)
def test_copies_that_are_refused(arguments, sentence, tmp_path):
    (tmp_path / "there.yaml").write_text("mine")
    assert sentence in user_error(cot("cp", *arguments, cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_force_overwrites(tmp_path):
    (tmp_path / "there.yaml").write_text("mine")
    must(cot("cp", "bt_sft/quickstart", "there.yaml", "--force", cwd=tmp_path))
    assert (tmp_path / "there.yaml").read_text() != "mine"


def test_ls(tmp_path):
    shown = must(cot("ls", cwd=tmp_path))
    assert re.search(r"^bt_sft +Blurred-thoughts supervised fine-tuning \(BT-SFT\)\.$", shown, re.MULTILINE)
    assert re.search(r"^  icot_sft/gpt2_4x4 +ICoT-SI: GPT-2 Small", shown, re.MULTILINE)
    names = must(cot("ls", "--names", cwd=tmp_path)).split()
    shipped = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert set(names) == shipped | {path.stem for path in (ROOT / "recipes").glob("*.py")}
    assert "rft/quickstart" not in must(cot("ls", "shad", cwd=tmp_path))
    assert user_error(cot("ls", "shadd", cwd=tmp_path)) == "no recipe 'shadd'; did you mean 'shad'?"


def test_view_shows_what_the_run_trained_on(copied, hub):
    """The page equals, byte for byte, the one that the run itself wrote."""
    config = ["my.yaml", f"tokenizer.path={hub / 'model'}", *SHORT]
    printed = must(cot("view", *config, "--n", "4", "--out", "tokens.html", cwd=copied))
    assert (copied / "tokens.html").read_bytes() == (copied / "runs" / "my" / "tokens.html").read_bytes()
    assert "64 rows read, 64 kept, 0 dropped; tokens: prompt " in printed and "6 steps of 8 rows" in printed
    shown = must(cot("view", *config[:2], "--n", "1", "--epochs", "1,2", *config[2:], cwd=copied))
    assert re.findall(r"row 0, (.*?) ─", shown) == ["epoch 1", "epoch 2"]
    assert re.search(r"\[-.+?-\]", shown, re.DOTALL) and "blurred" in shown


def test_an_epoch_that_a_run_does_not_have(hub, capsys):
    config = ["bt_sft/quickstart", f"tokenizer.path={hub / 'model'}", "dataset.max_rows=16", "dataset_val=null"]
    assert main(["view", *config, "epochs=3", "--epochs", "2,3"]) == 2
    assert capsys.readouterr().err == "error: epochs: 3 is none of this run's, which are 0 to 2\n"
    assert main(["view", "cot_eval/quickstart"]) == 2
    assert capsys.readouterr().err == "error: the config has no dataset, so nothing is trained on\n"
    assert main(["view", *config, "--n", "0"]) == 2
    assert capsys.readouterr().err == "error: --n must be at least 1, got 0\n"


def test_view_of_a_curriculum_shows_its_stages(tmp_path):
    few = ["dataset.num_rows=512", "epochs=12", "batch_size=64"]
    must(cot("view", "icot_sft/quickstart", *few, "--out", "stages.html", cwd=tmp_path))
    page = (tmp_path / "stages.html").read_text()
    stages = re.findall(r"<h3>step (\d+), ([\d.]+) removed</h3>", page)
    assert stages[0] == ("0", "0") and len(set(stages)) > 2 and 'class="r thought"' in page


def test_validate(copied, hub):
    overrides = [f"tokenizer.path={hub / 'model'}", "batch_size=4"]
    assert "my.yaml is valid: the recipe bt_sft takes all" in must(cot("validate", "my.yaml", *overrides, cwd=copied))
    mine = must(cot("validate", "my.yaml", "--recipe", "my_bt_sft.py", *overrides, cwd=copied))
    assert "the recipe my_bt_sft.py takes all" in mine


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bt_sft/quickstart", "batch_sise=4"], "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        (["bt_sft/quickstart", "--recipe", "bt_sfd"], "--recipe bt_sfd: no such recipe; did you mean 'bt_sft'?"),
        (["bt_sft/quikstart"], "--config bt_sft/quikstart: no such file or shipped config; did you mean"),
        (["bt_sft/llama3_2_1B"], "model.path: no folder models/Llama-3.2-1B-Instruct"),
        (["bt_sft/quickstart", "dataset.source=none.jsonl"], "none.jsonl: no such file or folder"),
        (["bt_sft/quickstart"], "tokenizer.path: nothing at runs/tiny_llama"),
        (["bt_sft/quickstart", "dataset_val=/nope.jsonl"], "/nope.jsonl: no such file or folder"),
        (["bt_sft/quickstart", "evaluation.source=no/such.txt"], "no/such.txt: no such file or folder"),
        (["stock_torchtune/bt_sft_tiny", "loss._component_=cot_components.losses.sfft"], "has no 'sfft'; did you mean"),
    ],
)
def test_configs_that_are_refused(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *arguments]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


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


def test_a_config_of_torchtune_itself_is_told(capsys):
    assert main(["validate", "stock_torchtune/bt_sft_tiny"]) == 0
    assert "full_finetune_single_device is torchtune's" in capsys.readouterr().out


def test_report_and_compare(copied):
    done = copied / "runs" / "my"
    for path in ("curves.png", "report.html"):
        (done / path).unlink()
    assert must(cot("compare", done, cwd=copied)).splitlines()[-1] == f"curves  {done / 'curves.png'}"
    assert (done / "curves.png").read_bytes().startswith(b"\x89PNG")
    shutil.copytree(done, copied / "another")
    table = must(cot("compare", done, "another", "--out", "both.png", cwd=copied))
    assert "answers correct" in table and "my" in table and "difference from my" in table
    assert (copied / "both.png").stat().st_size > 10_000
    must(cot("report", done, cwd=copied))
    page = (done / "report.html").read_text()
    for part in ("<h2>Checkpoints</h2>", "step_00000003/", "step_00000006/", "<h2>Versions</h2>", "redraw", "<svg"):
        assert part in page, part
    shutil.copytree(done, copied / "twin" / "my")
    assert re.search(r"^ +runs/my +twin/my *$", must(cot("compare", done, "twin/my", cwd=copied)), re.MULTILINE)
    assert user_error(cot("compare", done, done, cwd=copied)) == f"{done}: the same run twice"
    for picture in ("x/c.xyz", "x"):
        said = user_error(cot("compare", done, "--out", picture, cwd=copied))
        assert said.startswith(f"{picture}: a picture's name must end in its type: ") and ".png, " in said
    assert not (copied / "x").exists() and not (copied / "x.png").exists()
    assert user_error(cot("report", "nowhere", cwd=copied)) == "nowhere: no such run"
    assert "nowhere holds no log" in user_error(cot("compare", "nowhere", cwd=copied))


def test_tiny_writes_what_recipes_start_from(tmp_path):
    must(cot("tiny", "model", cwd=tmp_path))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["hidden_size"] == 64


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_tiny_spares_another_model(weights, tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["tiny", str(model)]) == 0
    own = (model / "model.safetensors").read_bytes()
    (model / "tokenizer.json").unlink()
    assert main(["tiny", str(model)]) == 0 and (model / "tokenizer.json").is_file()
    (model / weights).write_bytes(own[:-1] + b"x")
    (model / "config.json").write_text("trained")
    assert main(["tiny", str(model)]) == 2
    assert capsys.readouterr().err == (
        f"error: {model / weights} is another model than cot tiny writes; --force writes over it\n"
    )
    assert (model / weights).read_bytes() != own and (model / "config.json").read_text() == "trained"
    assert main(["tiny", str(model), "--force"]) == 0
    assert (model / "model.safetensors").read_bytes() == own and (model / "config.json").read_text() != "trained"


def test_doctor(tmp_path):
    here = {"PATH": f"{COT.parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    healthy = must(cot("doctor", cwd=tmp_path, env=here))
    assert healthy.endswith("all well\n") and "mend" not in healthy
    for part in ("torchtune           0.6.1", "torchtune.training  imports", "distributed, gloo", "icot_sft", "GPU"):
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
        f'mend  export PATH="{COT.parent}:$PATH"',
        "mend  unset HF_HUB_OFFLINE",
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


def test_errors_are_sentences(tmp_path):
    assert user_error(cot("veiw", cwd=tmp_path)) == "cot has no command 'veiw'; did you mean 'view'?"
    assert "cot compare does not know '--oops'" in user_error(cot("compare", "x", "--oops", cwd=tmp_path))
    assert "the following arguments are required: CONFIG" in user_error(cot("view", cwd=tmp_path))
    assert "'x' is no list like 0,1,2" in user_error(cot("view", "c", "--epochs", "x", cwd=tmp_path))
    assert must(cot(cwd=tmp_path)).startswith("usage: cot")
