"""The page about several runs."""

import json
import re

import pytest
from evaluations import evaluation_of

from cot_components.cli.main import main
from cot_components.viz.compare_page import comparison_html

HOSTILE = "</script><img src=x onerror=alert(2)>"


@pytest.fixture(name="runs")
def _runs(tmp_path):
    runs = {name: tmp_path / name for name in ("sft", "blur", "new")}
    for at, (name, folder) in enumerate(runs.items()):
        folder.mkdir()
        records = [{"step": i, "loss_answer": 2.0 / (i + 1), "cut_rate": 0.5} for i in range(4)]
        records += [{"step": 4, "answer_accuracy": at / 2, "run_peak_memory_gib": 1.0 + at}]
        (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if name != "new":
            evaluation_of("rwrw" if at else "rrww", completion=HOSTILE).save(folder / "evaluations" / "step_4.json")
    return runs


def test_the_panels_of_one_run_side_by_side(runs):
    page = comparison_html(runs)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Last evaluation", "Curves", "Samples", "Precision, memory, speed"]
    assert re.findall(r'<th scope="col">(.*?)</th>', page) == ["sft", "blur", "sft", "blur", "new"]
    memory = re.search(r'<th scope="row">peak memory</th>(.*?)</tr>', page)[1]
    assert re.findall("<b>(.*?)</b>", memory) == ["1.00 GiB", "2.00 GiB", "3.00 GiB"]
    (words,) = re.findall(r'aria-label="(Answers correct by step.*?)"', page)
    assert words == "Answers correct by step. sft: 0.0 % at 4. blur: 50.0 % at 4. new: 100.0 % at 4."
    assert len(re.findall(r'aria-label="Answers cut off by step', page)) == 1 and "difference from sft" in page


def test_questions_that_differ_come_first(runs):
    page = comparison_html(runs)
    kinds = dict(re.findall(r'name="kind" value="([^"]+)">.*?(\d+)</span>', page))
    expected = {f"right in {name} {how}": "1" for name, how in (("sft", "alone"), ("blur", "alone"), ("all", ""))}
    assert {kind.strip(): count for kind, count in expected.items()} | {"wrong in all": "1"} == kinds
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert [kind for kind, _ in data][2:] == ["right in all", "wrong in all"] and "<img" not in page


def test_the_command_writes_it(runs, tmp_path, capsys):
    folders = [str(folder) for folder in runs.values()]
    assert main(["compare", *folders]) == 0
    page = runs["new"] / "comparison.html"
    assert str(page) in capsys.readouterr().out and page.read_text() == comparison_html(runs)
    page.unlink()
    assert main(["compare", *folders, "--out", str(tmp_path / "deep" / "both.html")]) == 0
    assert (tmp_path / "deep" / "both.html").is_file() and not page.exists()
    assert main(["compare", folders[0], "--out", str(tmp_path / "one.html")]) == 0
    assert "<h2>On disk</h2>" in (tmp_path / "one.html").read_text()
