"""The report of a run's folder, whole and with parts missing."""

import dataclasses
import json
import re

import pytest
import torch

from cot_components.data.generated.tasks import make_traces
from cot_components.data.text.segments import Tags
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Completion, Evaluation, evaluate
from cot_components.evaluation.token_losses import PieceLoss, TokenLosses
from cot_components.runs.checkpoint import write_checkpoint
from cot_components.viz.report import read_evaluations, report_html

TRACES = make_traces(split="held_out", count=10)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b"


def say(completions, **options):
    return evaluate(TRACES, lambda _: completions, tags=Tags(), count_tokens=lambda text: len(text.split()), **options)


def tokens(*losses):
    return (TokenLosses(0, (PieceLoss(HOSTILE, "prompt", None), *(PieceLoss("a", "answer", x) for x in losses))),)


def write_run(folder):
    folder.mkdir()
    training = [
        {"step": i, "epoch": i // 10, "loss": 2 - i / 20, "loss_answer": 2 - i / 20, "tokens_per_second": 1000.0 + i}
        for i in range(20)
    ]
    measured = [{"step": step, "answer_accuracy": right} for step, right in ((0, 0.0), (20, 1.0), (100, 0.6))]
    records = [*training, *measured, {"step": 19, "run_peak_memory_gib": 2.0}]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    references = [trace.messages[-1].content for trace in TRACES]
    first = dataclasses.replace(say([HOSTILE] * 10, losses={"val_loss": 5.0}), token_losses=tokens(4.0, None))
    first.save(folder / "evaluations" / "step_0.json")
    last = say(["<think>x</think>Answer: wrong"] * 4 + references[4:], losses={"val_loss": 1.0})
    dataclasses.replace(last, token_losses=tokens(1.0, 2.0)).save(folder / "evaluations" / "step_100.json")
    say(references).save(folder / "evaluations" / "step_20.json")
    (folder / "config.yaml").write_text(f"# <b>{HOSTILE}\nseed: 0\n")
    (folder / "versions.json").write_text('{"torch": "2.13.0"}')
    for step in (10, 20):
        write_checkpoint(folder / "checkpoints", step, tensors={"model.safetensors": {"w": torch.ones(700)}}, state={})
    return folder


@pytest.fixture(name="run")
def _run(tmp_path):
    return write_run(tmp_path / "my_run")


def sections(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


PARTS = ["Before and after", "Curves", "What was learnt", "Samples", "Precision, memory, speed", "Checkpoints"]
PARTS += ["On disk", "Config", "Versions"]


def test_a_whole_run(run):
    page = report_html(run)
    assert sections(page) == PARTS
    links = dict(re.findall(r'<a href="#(.*?)">(.*?)</a>', page))
    assert list(links.values()) == PARTS and all(f'<section id="{name}">' in page for name in links)
    for part in (
        *(
            "<h1>my_run</h1>",
            "20 steps, 2 epochs, 1,010 tokens/s",
            "<td><b>2.00 GiB</b></td>",
            '<th scope="col">step 0</th><th scope="col">step 100</th>',
        ),
        *('<th scope="row">answers correct</th><td><b>0.0 %</b>', "<td><b>60.0 %</b>", "seed: 0", "<td>2.13.0</td>"),
        "step_00000010/</td><td>10</td><td>3.",
    ):
        assert part in page, part
    assert "damaged" not in page


def test_every_question_is_a_card_of_its_kind(run):
    """Right at step 20 alone for four of ten: those turned back."""
    page = report_html(run)
    assert page.count('<article class="example">') == 10
    assert re.findall(r'name="kind" value="([^"]+)">.*?(\d+)</span>', page) == [
        ("wrong, then right", "6"),
        ("right, then wrong", "4"),
    ]
    cards = re.findall(r"<article.*?</article>", page, re.DOTALL)
    turned = "from step 0<.*right</span> from step 20<.*wrong</span> from step 100<"
    assert len([card for card in cards if re.search(turned, card)]) == 4
    assert len([card for card in cards if "wrong</span>, answer wrong, expected" in card]) == 4
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert [html for _, html in data] == cards


def test_accuracies_have_their_intervals_and_pictures_their_words(run):
    page = report_html(run)
    (words,) = re.findall(r'aria-label="(Answers by step.*?)"', page)
    assert "correct: 0.0 % at 0, 60.0 % at 100." in words
    low, high = (f"{100 * x:.1f}" for x in read_evaluations(run)[100].accuracy_interval)
    course = re.search(r"every evaluation as a table.*?</details>", page, re.DOTALL)[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', course) == ["step 0", "step 20", "step 100"]
    assert f"<b>60.0 %</b><small>{low} to {high}</small>" in course


def test_what_was_learnt_is_tinted_token_by_token(run):
    page = report_html(run)
    assert re.findall(r'<i role="option".*?</i>', page) == [
        '<i role="option" style="--b:1.0;--a:0.26;--d:0.79" title="answer: 4.00 before, 1.00 after">a</i>',
        '<i role="option" style="--b:0.0;--a:0.53;--d:0.0" title="answer: none before, 2.00 after">a</i>',
    ]
    for path in (run / "evaluations").glob("step_*.json"):
        saved = json.loads(path.read_text())
        del saved["token_losses"]  # as older runs have them
        path.write_text(json.dumps(saved))
    assert "What was learnt" not in sections(report_html(run))


def test_cut_answers_are_counted_and_marked(run):
    assert "cut" not in report_html(run).split("<main>")[1]
    cut = [Completion("<think>for ever", True)] * 5 + [Completion("<think>x</think>Answer: wrong", False)] * 5
    dataclasses.replace(say(cut), held_out=True).save(run / "evaluations" / "step_100.json")
    page = report_html(run)
    row = re.search(r'<th scope="row">cut by max_new_tokens</th>(.*?)</tr>', page)[1]
    assert re.findall("<b>(.*?)</b>", row) == ["-", "50.0 %"] and "no answer, expected" in page and ", cut off" in page
    assert "10 held-out examples" in page and "10 examples" in page


def test_evaluations_are_in_the_order_of_their_steps(run):
    for name in ("step_7.json.bak", "step_best3.json"):  # not the run's own
        (run / "evaluations" / name).write_text("{")
    assert list(read_evaluations(run)) == [0, 20, 100]


def test_data_never_becomes_markup_and_nothing_is_asked_for(run):
    page = report_html(run)
    scripts = re.findall(r"<script.*?>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == page.count("<script") == page.count("</script") == 2  # the cards, and what shows them
    assert "alert(1)" in page and "alert" not in scripts[1] and "<img" not in page and "\x1b" not in page
    assert not re.search(r"""(?:src|href)="(?!#)""", page.split("<main>")[1].replace("xlink:href", "href"))


def test_the_curves_take_the_colours_of_the_page_and_their_text_is_text(run):
    page = report_html(run)
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert all(f"var(--{name})" in svg for name in ("answer", "muted", "line")) and not re.search(r"#[0-9a-f]{6}", svg)
    assert ">answer</text>" in svg


def test_a_damaged_checkpoint_is_named(run):
    (run / "checkpoints" / "step_00000010" / "model.safetensors").write_bytes(b"0")
    (run / "checkpoints" / "step_00000020" / "manifest.json").unlink()
    page = report_html(run)
    assert "damaged: model.safetensors" in page and "damaged: its manifest cannot be read" in page


def test_what_is_missing_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0, "lr": 0.1}\n')
    assert sections(report_html(tmp_path)) == ["On disk"]
    Evaluation((), losses={"val_loss": 1.5}).save(tmp_path / "evaluations" / "step_0.json")
    page = report_html(tmp_path)
    assert sections(page) == ["Before and after", "On disk"] and "1.500" in page
    say([trace.messages[-1].content for trace in TRACES]).save(tmp_path / "evaluations" / "step_0.json")
    page = report_html(tmp_path)
    assert '<th scope="col">step 0</th></tr>' in page and page.count("<h3>step 0") == 10


def test_faults_are_sentences(tmp_path):
    def fault(folder=tmp_path):
        with pytest.raises(UserError) as caught:
            report_html(folder)
        return str(caught.value)

    assert "nowhere: no such run" in fault(tmp_path / "nowhere") and "no such log" in fault()
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    (tmp_path / "versions.json").write_text("[1]")
    assert "versions.json holds no JSON object" in fault()
    (tmp_path / "config.yaml").write_bytes("seed: 1\n# Größe\n".encode("latin-1"))
    assert "config.yaml:2: not UTF-8 text" in fault()
