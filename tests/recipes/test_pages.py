"""Every command in a block of README and docs is typed by a test, and every picture is made by one command."""

import json
import re
import shlex
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from bfcl import write_bfcl
from commands import ROOT
from pages import PAGES, README, blocks
from thinking import THINKING
from tiny_runs import has_key, read, run

from cot_components.cli.main import main
from cot_components.config import shipped_configs
from experiments import STUDIES

INSTALLS, TESTS = "makes an environment of its own", "is what runs this test"
HUB, OTHERS = "needs an account of the hub", "is a program of others, which is not installed"
NOT_TYPED = {
    "make quickstart": INSTALLS,
    "make install": INSTALLS,
    ". .venv/bin/activate": INSTALLS,
    "make docs": INSTALLS,
    "make test": TESTS,
    "make lint": TESTS,
    "python -m pytest -q tests/unit/transforms": TESTS,
    "hf auth login": HUB,
    "hf upload USER/NAME OUTPUT_DIR/model --private": HUB,
    "hf upload USER/NAME-adapter OUTPUT_DIR/adapter --private": HUB,
    "tune download meta-llama/Llama-3.2-1B-Instruct --output-dir models/Llama-3.2-1B-Instruct "
    '--ignore-patterns "original/consolidated.00.pth"': HUB,
    'lm_eval run --model hf --model_args "pretrained=OUTPUT_DIR/model,think_end_token=</think>" --include_path tasks '
    "--tasks my_test --apply_chat_template": OTHERS,
    "vllm serve OUTPUT_DIR/model --reasoning-parser deepseek_r1": OTHERS,
    "python convert_hf_to_gguf.py OUTPUT_DIR/model --outfile model.gguf --outtype bf16": OTHERS,
}
"""Command -> why no test types it."""
ELSEWHERE = {
    "cot get smollm2 models/SmolLM2-135M-Instruct": "unit/models/test_gguf_llama.py",
    "cot cp bt_sft my_bt_sft.py": "recipes/test_cot.py",
    "tune run my_bt_sft.py --config bt_sft/quickstart": "recipes/test_cot.py",
    "tune run --nproc_per_node 2 my_bt_sft.py --config bt_sft/quickstart": "recipes/test_cot.py",
    "cot validate bt_sft/quickstart --recipe my_bt_sft.py": "recipes/test_cot.py",
}
"""Command -> the test that types it, on other numbers. So do `test_readme.py` for README's first block, for the guide's
method and, but for the weights, for `llama3_2_1B`."""
IN_TEST_README = ("my.yaml", "fade.yaml", "llama3_2_1B", "cot doctor", "runs/my")
PROGRAMS = ("make", "tune", "cot", "python", "hf", "lm_eval", "vllm", ".")
MODELS = ("runs/bt_sft_quickstart/model", "runs/tiny_llama", "models/SmolLM2-135M-Instruct", "models/Qwen3-0.6B")
FEW = {
    "dataset.max_rows": 16,
    "dataset_val.max_rows": 4,
    "epochs": 1,
    "evaluation.max_rows": 4,
    "evaluation.max_new_tokens": 48,
    "evaluate_before_training": "false",
    "device": "cpu",
    "dtype": "fp32",
}


def typed(page):
    """Commands of a page's blocks, loops of the shell written out."""
    for block in blocks(page):
        text = re.sub(r"for (\w+) in (.+?); do\s+(.+?); done", _each, block)
        for line in text.splitlines():
            command = line.partition(" #")[0].strip()
            if command.split(" ")[0] in PROGRAMS:
                yield command


def _each(loop):
    name, values, command = loop.groups()
    return "\n".join(command.replace(f"${name}", value) for value in values.split())


@pytest.fixture(scope="module")
def folder(hub, tmp_path_factory):
    """Where a reader types them: models, and files under the names that the pages give them."""
    made = tmp_path_factory.mktemp("pages")
    for name in MODELS:
        shutil.copytree(hub / "model", made / name)
    thinks = shutil.copytree(hub / "model", made / "DIR")  # with a longer context, and a switch in its template
    for name, change in (
        ("config.json", {"max_position_embeddings": 2048}),
        ("tokenizer_config.json", {"chat_template": THINKING["switched"]}),
    ):
        (thinks / name).write_text(json.dumps({**json.loads((thinks / name).read_text()), **change}))
    write_bfcl(made / "gorilla/berkeley-function-call-leaderboard/bfcl_eval/data")
    (row,) = re.findall(r"`(\{\"prompt\".*?\})`", README)
    for name in ("my_traces.jsonl", "my.jsonl", "train.jsonl"):
        (made / name).write_text("".join(row.replace("2", str(number)) + "\n" for number in range(20, 36)))
    return made


def go(words):
    """One command in this process, on few rows; its exit code."""
    config = next((word for word in words if word in shipped_configs()), None)
    given = [word for word in words if "=" in word]
    named = {word.partition("=")[0] for word in given}
    settings = read(config, *given) if config else {}
    few = [f"{key}={value}" for key, value in FEW.items() if key not in named and has_key(settings, key)]
    few += ["evaluation.subset=simple_python parallel"] * (config == "cot_eval/bfcl")  # what `write_bfcl` wrote
    if words[0] == "cot":
        return main([*words[1:], *(word for word in few if word.startswith("dataset."))])
    assert words[:2] == ["tune", "run"] and words[3] == "--config"
    return run(words[2], [*words[5:], *few], config=config).code


def test_every_command_of_a_block_is_typed(folder, monkeypatch, capsys):
    """In the order of the pages, by this test or by one that is named; any other has a reason why not."""
    monkeypatch.chdir(folder)
    found = [command for page in PAGES if page.parent.name != "experiments" for command in typed(page)]
    left = {*NOT_TYPED, *ELSEWHERE} - {*found}
    assert not left and all((ROOT / "tests" / name).is_file() for name in ELSEWHERE.values())
    here = [command for command in dict.fromkeys(found) if command not in {**NOT_TYPED, **ELSEWHERE}]
    failed = []
    for command in here:
        if not any(name in command for name in IN_TEST_README) and go(shlex.split(command)) != 0:
            failed.append(f"{command}: {capsys.readouterr().err[-500:]}")
    assert not failed, "\n".join(failed)
    assert len(here) > 20 and {"tokens.html", "stages.html", "s3ft.jsonl"} <= {path.name for path in folder.iterdir()}


def test_one_command_makes_every_picture(tmp_path, monkeypatch):
    """`make figures`, from the runs that are kept; only the browser's shots are left out. Studies draw their own."""
    spec = spec_from_file_location("docs_figures", ROOT / "docs" / "figures.py")
    figures = module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(figures)
    monkeypatch.setattr(figures, "cot", lambda *words: main([str(word) for word in words]))
    monkeypatch.setattr(figures, "shoot", lambda page, image, **how: shutil.copyfile(page, image))
    assert figures.main([str(tmp_path / "no runs"), str(tmp_path)]) == 0
    kept = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == kept and len(kept) > 5
    drawn = {path.name for path in (ROOT / "experiments" / "results").glob("*.png")}
    assert {Path(name).stem for name in drawn} <= {*STUDIES}
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {Path(link).name for link in re.findall(r"\]\(([^)]+\.(?:png|svg|gif|jpe?g))\)", pages)} == kept | drawn
