"""README and docs: every command, name, link and figure in them exists, and what can be run is run as written."""

import argparse
import importlib
import inspect
import json
import pydoc
import re
import shlex
import shutil
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from commands import CONFIGS, ROOT, cot, must, run, tune
from omegaconf import OmegaConf
from pages import GUIDE, PAGES, README, blocks

from benchmarks import BENCHMARKS
from benchmarks.gpu import PARTS
from cot_components.cli.main import make_parser
from cot_components.cli.shipped import whole_recipe
from cot_components.config import shipped_configs
from experiments import STUDIES

DOCS = ROOT / "docs"
COMMAND = re.compile(r"(?:make|tune|cot|python)(?: -m \w+| \S+\.py| [a-z_-]+)\b")


def commands(page):
    """Every command of a page: lines of blocks, and code in sentences that begins like one."""
    text = page.read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for block in blocks(page) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [line for line in lines + inline if COMMAND.match(line)]


def check_config(name):
    assert name in shipped_configs() or (ROOT / name).is_file() or name in {"my.yaml", "fade.yaml", "NAME_OR_PATH"}, (
        name
    )


def check_cot(words):
    parser = make_parser()
    if len(words) == 1 or words[0] == "COMMAND":
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        assert words[0] in [*subparsers.choices, "COMMAND"], words
        return
    options, rest = parser.parse_known_args(words)
    assert all("=" in word for word in rest), rest
    if "/" in getattr(options, "config", ""):
        check_config(options.config)


def check_tune(words):
    if words[0] in ("download", "run") and len(words) > 1:
        names = [word for word in words[1:] if re.fullmatch(r"[A-Za-z_][\w/.-]*", word)]
        ours = {path.stem for path in (ROOT / "recipes").glob("*.py")}
        known = {*ours, "full_finetune_single_device", "my_bt_sft.py", "RECIPE"}
        assert words[0] == "download" or not names or names[0] in known, words
        if "--config" in words:
            check_config(words[words.index("--config") + 1])
        return
    assert words == ["run"], words


def check_make(words):
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE) or words[0].endswith("..."), words
    studies = [word.partition("=")[2] for word in words if word.startswith("STUDY=")]
    assert set(studies) <= set(STUDIES)


def check_python(words):
    if words[0] == "-m" and words[1] == "benchmarks":
        known = {*BENCHMARKS, "gpu", "cpu", "tiny", *PARTS}
        assert all(word in known or "-" in word for part in words[2:] for word in part.split(",")), words
    elif words[0] == "-m" and words[1] == "pydoc":
        assert pydoc.locate(words[2]) is not None, words
    elif words[0] == "-m":
        module = ROOT / words[1].replace(".", "/")
        assert words[1] == "pytest" or module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), words
    else:
        assert (ROOT / words[0]).is_file() or words[0] == "convert_hf_to_gguf.py", words


CHECKS = {"cot": check_cot, "tune": check_tune, "make": check_make, "python": check_python}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page):
    found = commands(page)
    for command in found:
        program, *words = shlex.split(command.replace("...", "")) if "..." in command else shlex.split(command)
        CHECKS[program](words or ["--help"])
    assert found or page.name == "data.md"


def test_every_link_and_picture_is_there():
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))]
    assert len(found) > 15
    assert not [(page.name, link) for page, link in found if "://" not in link and not (page.parent / link).exists()]
    named = set(re.findall(r"`(configs/\S+?|tests/\S+?|cot_components/\S+?|benchmarks/results/|docs/\S+?)`", README))
    assert not [path for path in named if not (ROOT / path).exists()]
    proofs = re.findall(r"`((?:\w+/)+\w+\.py)\b", (DOCS / "promises.md").read_text(encoding="utf-8"))
    assert len(proofs) > 40 and not [path for path in proofs if not (ROOT / "tests" / path).exists()]
    assert all(name in README for name in ("bt_sft", "icot_sft", "shad", "rft", "target_sft"))


def test_the_readme_stays_readable():
    assert len(README.splitlines()) <= 130 and README.count("\u2014") == 0


def test_every_ratio_of_the_table_was_measured():
    """`1.19x ... | python -m benchmarks step`: a ratio of that benchmark's last output, rounded."""
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| `python -m benchmarks (\w+)` \|$", page, re.MULTILINE)
    checked = 0
    for _, result, name in rows:
        measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}_cpu.json").read_text())["rows"]
        ratios = [row["ratio"] for row in measured if row.get("ratio")]
        for text in re.findall(r"([\d.]+)x\b", result):
            digits = len(text.partition(".")[2])
            assert any(round(ratio, digits) == float(text) for ratio in ratios), (name, text)
            checked += 1
    assert checked >= 8


@pytest.fixture(scope="module")
def set_up(hub, tmp_path_factory):
    """What the README's examples need: a model where the quickstart leaves one, and traces of a user's own."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(hub / "model", folder / "runs" / "bt_sft_quickstart" / "model")
    shutil.copytree(hub / "model", folder / "runs" / "tiny_llama")
    (row,) = re.findall(r"`(\{\"prompt\".*?\})`", README)
    rows = "".join(row.replace("2", str(number)) + "\n" for number in range(20, 36))
    for name in ("my_traces.jsonl", "my_test.jsonl"):
        (folder / name).write_text(rows)
    return folder


FEW = [
    "dataset.max_rows=32",
    "batch_size=8",
    "epochs=1",
    "dataset_val=null",
    "evaluation=null",
    "output_dir=out",
]


def test_the_composition_runs(set_up):
    must(cot("cp", "bt_sft/quickstart", "my.yaml", "--force", cwd=set_up))
    (block,) = [text for text in blocks(PAGES[0], "yaml") if "ByRole" in text]
    merged = OmegaConf.load(set_up / "my.yaml")
    merged.dataset.transforms, merged.loss = {}, {}
    OmegaConf.save(OmegaConf.merge(merged, OmegaConf.create(block)), set_up / "my.yaml")
    must(tune("bt_sft", "--config", "my.yaml", *FEW, cwd=set_up))
    page = (set_up / "out" / "tokens.html").read_text()
    assert 'style="--w:3"' in page and 'class="b thought"' in page
    objective = [json.loads(line) for line in (set_up / "out" / "log.jsonl").read_text().splitlines()]
    assert any("objective" in record and record["objective"] != record["loss"] for record in objective)


def test_the_first_commands_go_through(set_up):
    """As typed, one after another, but on fewer rows; `cot doctor` may find something here."""
    (set_up / "my.yaml").unlink(missing_ok=True)
    (block,) = [block for block in blocks(PAGES[0]) if "cot doctor" in block]
    typed = [shlex.split(line, comments=True) for line in block.splitlines()]
    for program, *words in typed[:-1]:
        few = {"view": FEW[:1], "validate": FEW[:1], "run": FEW[:-1]}.get(words[0], [])
        must({"cot": cot, "tune": run_tune}[program](*words, *few, cwd=set_up))
    assert (set_up / "tokens.html").is_file() and (set_up / "runs" / "my" / "report.html").is_file()
    assert typed[-1] == ["cot", "doctor"] and len(typed) == 9


def run_tune(run, *arguments, cwd):
    assert run == "run"
    return tune(*arguments, cwd=cwd)


def test_the_commands_for_real_models_are_valid(hub, set_up):
    """Everything but the weights: a folder where `tune download` puts them, with the files that the config names."""
    model = set_up / "models" / "Llama-3.2-1B-Instruct"
    shutil.copytree(hub / "model", model)
    lines = [line for block in blocks(DOCS / "start.md") for line in block.splitlines() if line.startswith("tune ")]
    download, train, evaluate = (shlex.split(line) for line in lines if "llama3_2_1B" in line or "download" in line)
    assert download[download.index("--output-dir") + 1] == str(model.relative_to(set_up))
    must(cot("validate", *train[train.index("--config") + 1 :], cwd=set_up))
    shutil.copytree(model, set_up / OmegaConf.load(CONFIGS / "bt_sft" / "llama3_2_1B.yaml").output_dir / "model")
    must(cot("validate", *evaluate[evaluate.index("--config") + 1 :], cwd=set_up))


def test_the_stock_example_trains(set_up):
    (block,) = [text for text in blocks(DOCS / "start.md", "yaml") if "redraw: once" in text]
    config = OmegaConf.load(CONFIGS / "stock_torchtune" / "bt_sft_tiny.yaml")
    config.update(OmegaConf.create(block))
    OmegaConf.save(config, set_up / "stock.yaml")
    must(tune("full_finetune_single_device", "--config", "stock.yaml", cwd=set_up))
    (log,) = (set_up / "runs" / "stock_bt_sft_tiny" / "logs").glob("*.txt")
    assert "loss:" in log.read_text()


def test_the_hugging_face_example_trains(set_up):
    block = next(text for text in blocks(DOCS / "start.md", "python") if "Trainer" in text)
    probe = block + '\nprint("epochs", trainer.state.epoch, trainer.collator.epoch, trainer.args.output_dir)'
    printed = must(run(sys.executable, "-W", "ignore", "-c", probe, cwd=set_up, env={"HF_HUB_OFFLINE": "1"}))
    assert re.search(r"^[\d.]+\nepochs 2\.0 1 runs/hf$", printed, re.MULTILINE)


def test_the_export_answers_a_question(set_up):
    block = next(text for text in blocks(DOCS / "start.md", "python") if "pipeline" in text)
    probe = block + '\nprint("messages", len(talk[0]["generated_text"]), talk[0]["generated_text"][-1]["role"])'
    printed = must(run(sys.executable, "-W", "ignore", "-c", probe, cwd=set_up, env={"HF_HUB_OFFLINE": "1"}))
    assert printed.splitlines()[-1] == "messages 2 assistant"


def test_the_method_of_the_guide_works_as_written(set_up):
    (set_up / "fade.py").write_text(blocks(GUIDE, "python")[0])
    (copy, view, train) = next(block.splitlines() for block in blocks(GUIDE) if "fade.yaml" in block)
    must(cot(*copy.split()[1:], cwd=set_up))
    shown = must(cot(*view.split()[1:], "dataset.max_rows=32", "--out", "fade.html", cwd=set_up))
    assert "32 rows read" in shown and 'style="--w:0.5"' in (set_up / "fade.html").read_text()
    must(tune(*train.split()[2:], *FEW, "output_dir=faded", cwd=set_up))
    assert (set_up / "faded" / "model" / "config.json").is_file()


def test_components_that_the_pages_name_exist():
    dotted = {name for page in PAGES for name in re.findall(r"cot_components(?:\.\w+)+", page.read_text("utf-8"))}
    assert len(dotted) > 10 and not [name for name in dotted if pydoc.locate(name) is None]


def test_tables_made_from_the_code_are_current():
    """`python docs/tables.py` writes them; a key without an explanation on its line is an error."""
    spec = spec_from_file_location("docs_tables", DOCS / "tables.py")
    tables = module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert tables.with_tables(page) == page
    parameters = inspect.signature(importlib.import_module("cot_sft").main).parameters
    assert [name for name, _, said in tables.keys(whole_recipe("cot_sft")) if said] == list(parameters)


def test_sources_of_the_methods_are_named():
    cited = OmegaConf.to_container(OmegaConf.load(ROOT / "CITATION.cff"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cited["version"] == version and f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert cited["cff-version"] == "1.2.0" and cited["license"] == "BSD-3-Clause"
    said = json.dumps(cited["references"])
    for source in ("blurred-thoughts-SFT", "2405.14838", "2412.14780", "2606.11189"):
        assert source in said, source
    assert all({"type", "title", "authors"} <= reference.keys() for reference in cited["references"])


def test_the_site_builds_without_a_warning_and_finds_what_a_reader_types(tmp_path):
    must(run(sys.executable, ROOT / "docs" / "site.py", tmp_path, cwd=tmp_path))
    index = json.loads((tmp_path / "docs" / "search.json").read_text())["items"]
    for word in ("from_folder", "ratio"):
        pages = {item["location"].split("/")[0] for item in index if word in item["title"] + item["text"]}
        assert pages >= {"api", "docs"}, word
    methods = (tmp_path / "docs" / "docs" / "methods.html").read_text()
    assert 'href="../experiments/index.html"' in methods and "unpkg" not in methods
    assert (tmp_path / "docs" / "CITATION.cff").read_bytes() == (ROOT / "CITATION.cff").read_bytes()


def test_a_link_to_what_is_not_there_ends_the_site(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "start.md").write_text("[one](https://x.org/y), [two](../LICENSE) and [none](none.yaml#top)\n")
    for name in ("LICENSE", "docs/site.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    result = run(sys.executable, tmp_path / "docs" / "site.py", tmp_path / "build", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr == "error: docs/start.md links to none.yaml: no such file\n"
