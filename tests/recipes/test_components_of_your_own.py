"""A format, an extractor and a selector in files of the user's own, as docs/data.md writes them, in a real run."""

import json
import re

import pytest
import tiny_runs
from commands import COT, ROOT, must, run, tune, user_error
from tiny_models import TINY_OVERRIDES

ROWS = [{"ask": {"de": f"{i} + 1?"}, "why": f"{i} and 1", "reply": f'"{i + 1}"'} for i in range(12)]


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    """The files of the docs, twelve rows, and the words that make a run of a shipped config take them."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["my_format.py", "my_extractor.py", "my_selector.py"]
    for name, code in blocks:
        (folder / name).write_text(code)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    must(run(COT, "tiny", folder / "tiny", cwd=folder))
    return folder


def words(*more):
    own = [f"{part}.format._component_=my_format.nested" for part in ("dataset", "evaluation")]
    data = [f"{part}.source=rows.jsonl" for part in ("dataset", "evaluation")]
    language = [f"{part}.format.language=de" for part in ("dataset", "evaluation")]
    extractor = [
        "evaluation.extractor._component_=my_extractor.last_quoted",
        "evaluation.max_new_tokens=8",
        "evaluation.split=train",
    ]
    extractor.append("evaluation.split=train")
    small = ["tokenizer.path=tiny", "output_dir=out", "epochs=1", "batch_size=4", "dataset_val=null"]
    return ["--config", "bt_sft/quickstart", *TINY_OVERRIDES, *data, *own, *language, *extractor, *small, *more]


def test_a_run_reads_and_scores_by_them(folder):
    selector = "dataset.select={short: {_component_: my_selector.shorter_than, tokens: 500}}"
    printed = must(tune("bt_sft", *words(selector), cwd=folder, env={"PYTHONPATH": str(folder)}))
    assert "select.short keeps 12 of 12 rows" in printed
    result = json.loads(max((folder / "out" / "evaluations").glob("*.json")).read_text())
    assert {example["reference"] for example in result["examples"]} == {str(i + 1) for i in range(12)}


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["dataset.format.language=fr"], ["rows.jsonl:1", "dataset.format", "KeyError: 'fr'"]),
        (["dataset.format.tongue=de"], ["dataset.format.tongue", "language"]),
        (["dataset.format._component_=my_format.nestled"], ["dataset.format", "nested"]),
        (["dataset.columns={instruction: ask}"], ["columns"]),
        (["evaluation.extractor._component_=json.loads"], ["evaluation.extractor"]),
    ],
)
def test_what_they_cannot_do_is_one_sentence(folder, monkeypatch, refused, more, parts):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    said = refused(tiny_runs.run("bt_sft", words("output_dir=refused", *more)[2:]))
    assert all(part in said for part in parts), said


def test_a_look_runs_them_only_when_allowed(folder):
    looking = ["validate", "bt_sft/quickstart", *words()[2:]]
    environment = {"PYTHONPATH": str(folder)}
    assert "--allow my_format" in user_error(run(COT, *looking, cwd=folder, env=environment))
    allowed = ["--allow", "my_format", "--allow", "my_extractor"]
    must(run(COT, *looking, *allowed, cwd=folder, env=environment))
