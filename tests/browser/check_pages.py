"""Opens the package's pages in a real browser: they render, ask for nothing and can be read, light and dark.

    python tests/browser/check_pages.py [FOLDER]

Prints every check that failed and exits with 1 if one did. Screenshots go to FOLDER if it is given. Without a Chromium
on PATH nothing is opened, and the one line printed says so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))  # the helpers shared by all tests

from chromium import Page, find_chromium, open_browser
from clicks import Checks, check_column, check_filter, check_keyboard, check_learnt, check_links, check_names
from commands import cot, must
from lookalikes import shared_data
from rows import byte_flat, decode_bytes, trace, without

from cot_components.clock import Clock
from cot_components.data.generated.tasks import make_traces
from cot_components.data.read.traces import read_traces
from cot_components.data.text.segments import Tags
from cot_components.evaluation.evaluate import evaluate
from cot_components.evaluation.extract import split_completion
from cot_components.evaluation.token_losses import PieceLoss, TokenLosses
from cot_components.runs.checkpoint import write_checkpoint
from cot_components.tools.audit import Audit, Finding, Stage
from cot_components.tools.audit_model import Figures, ModelView
from cot_components.transforms.blur import Blur
from cot_components.viz.audit_view import audit_page
from cot_components.viz.token_view import TokenView

HOSTILE = """</script><script>alert(1)</script><img src="http://127.0.0.1:9/x" onerror="alert(2)"> "'`&lt;"""
HOSTILE_NAME = "run <b>&amp; 'co'"
NUM_QUESTIONS = 240  # more than may be shown at once
PIECES = (*HOSTILE.split(" "), "\n", " long" * 40)
WIDTHS = {"wide": 1280, "narrow": 360}
LEAST_CONTRAST = 4.5  # WCAG 2.1 AA for text of this size
LONGEST_LOAD_S, LONGEST_JUMP_MS = 10.0, 1500.0  # several times what an idle core needs

CONTRAST = """(() => {
  const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const paint = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const worst = {};
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || ['SCRIPT', 'STYLE'].includes(element.tagName) || !element.checkVisibility()) continue;
    const layers = [];
    let opacity = 1;
    for (let e = element; e; e = e.parentElement) {
      layers.unshift(getComputedStyle(e).backgroundColor);
      opacity *= Number(getComputedStyle(e).opacity);
    }
    context.globalAlpha = 1;
    const ground = paint(['white', ...layers]);
    const style = getComputedStyle(element);
    const shown = paint([`rgb(${ground})`, element instanceof SVGElement ? style.fill : style.color]);
    const text = shown.map((v, i) => ground[i] + (v - ground[i]) * opacity);
    const [low, high] = [light(text), light(ground)].sort((a, b) => a - b);
    const name = [element.tagName.toLowerCase(), ...element.classList].join('.');
    worst[name] = Math.min(worst[name] ?? 99, (high + .05) / (low + .05));
  }
  return worst;
})()"""

JUMPS = """(async () => {
  const times = [];
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
  for (let i = 0; i <= 20; i++) {
    const start = performance.now();
    scrollTo(0, document.documentElement.scrollHeight * i / 20);
    await frame();
    times.push(performance.now() - start);
  }
  return times;
})()"""


def make_pages(folder: Path) -> dict[str, Path]:
    """The pages to look at, by name."""
    rows = byte_flat([trace("2+2?\n", "Two and two is four.\nSure.\n" * 4, "4"), trace(HOSTILE, HOSTILE * 2, HOSTILE)])
    draws = [Blur(ratio=0.3, keep_first=2)(rows, Clock(epoch, 0)) for epoch in range(3)]
    weights = np.where(rows.counters >= 0, np.array([0.0, 0.25, 1.0, 3.0])[rows.counters // 6 % 4], 1.0)
    states = {
        "blurred": draws[0],
        "weighed": rows.with_weights(weights.astype(np.float32)),
        "shorter": without(rows, (rows.counters >= 0) & (rows.counters < 20)),
    }
    foreign = (
        "<style>body { background: #7a1; color: #e0e; } s { color: red; } table, td { border: 3px solid red; }</style>"
    )
    written = {
        "draws": TokenView(draws, decode_bytes, title=HOSTILE).html(),
        "states": TokenView(states, decode_bytes, before=rows).html(),
        "notebook": f"<!doctype html><meta charset=utf-8>{foreign}{TokenView(draws, decode_bytes)._repr_html_()}",
        "audit": _audit(),
        "long": TokenView(_long_draws(folder), decode_bytes, title="A long thought").html(),
    }
    pages = {name: folder / f"{name}.html" for name in ("view", "report", "compare")}  # as the commands write them
    must(
        cot(
            "view",
            "icot_sft/quickstart",
            "curriculum.pace=exact",
            "dataset.num_rows=640",
            "--n",
            "2",
            "--out",
            pages["view"],
            cwd=folder,
        )
    )
    runs = [_write_run(folder / HOSTILE_NAME), _write_run(folder / "other", sooner=True)]
    must(cot("report", runs[0], "--out", pages["report"], cwd=folder))
    must(cot("compare", *runs, "--out", pages["compare"], cwd=folder))
    for name, text in written.items():
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(text, encoding="utf-8")
    return pages


def _audit() -> str:
    """A page of findings about texts that would be code."""
    findings = (Finding(HOSTILE, (HOSTILE,) * 60, True), Finding("an answer that seems cut", (HOSTILE,)))
    lengths, roles = {"row": (1, 2, 3, 4, 5), "answer": (1, 1, 1, 1, 1)}, {"answer": 9}
    found = Audit(HOSTILE, findings, lengths, roles, (HOSTILE,), (Stage(HOSTILE, 9, 5, 4.5),), (HOSTILE,))
    model = ModelView({"all": Figures(9, 0.5, 1.0, 0.2, 0.3)}, ((HOSTILE, -3.5),), (HOSTILE,))
    return audit_page(found, title=HOSTILE, model=model, model_name=HOSTILE)


def _long_draws(folder: Path) -> list:
    tags = Tags()
    traces = read_traces(shared_data(folder) / "think_skythought" / "messages.jsonl", strict=False)
    thoughts = [split_completion(t.messages[-1].content, tags)[0] or "" for t in traces]
    flat = byte_flat([trace("Think.\n", max(thoughts, key=len), "4")])
    assert len(flat.tokens) > 36_000
    return [Blur(ratio=0.2)(flat, Clock(epoch, 0)) for epoch in range(3)]


def _write_run(folder: Path, *, sooner: bool = False) -> Path:
    """A run of three evaluations: all wrong; the first half right; the first and the last third right, or more."""
    traces = make_traces(split="held_out", count=NUM_QUESTIONS)
    right, third = [trace.messages[-1].content for trace in traces], NUM_QUESTIONS // 3
    wrong, some = [HOSTILE] * NUM_QUESTIONS, right[: NUM_QUESTIONS // 2]
    at_last = [*right[:third], *wrong[: third // (2 if sooner else 1)]]
    said = {0: wrong, 20: [*some, *wrong[len(some) :]], 40: [*at_last, *right[len(at_last) :]]}
    losses = [
        {"step": i, "loss": 2 - i / 25, "loss_thought": 2 - i / 25, "loss_answer": 1 / (i + 1)} for i in range(40)
    ]
    for step, completions in said.items():
        result = evaluate(traces, lambda _, told=completions: told, tags=Tags(), count_tokens=len)
        fell_or_rose = [1.0 + i % 3 + 3.0 * ((step == 0) != (i % 4 == 3)) for i in range(len(PIECES))]
        heat = (TokenLosses(0, tuple(map(PieceLoss, PIECES, ["thought"] * len(PIECES), fell_or_rose))),)
        replace(result, token_losses=heat).save(folder / "evaluations" / f"step_{step}.json")
        losses.append({"step": step, **result.metrics(), "answer_tokens_per_second": 100.0})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in losses), encoding="utf-8")
    for step in (20, 40):
        write_checkpoint(folder / "checkpoints", step, tensors={"model.safetensors": {"w": torch.ones(99)}}, state={})
    (folder / "checkpoints" / "step_00000020" / "model.safetensors").unlink()  # a damaged one is said in colour
    (folder / "config.yaml").write_text(f"# {HOSTILE}\n" + "key: " + "value " * 60, encoding="utf-8")
    return folder


def check_quiet(page: Page, path: Path) -> Checks:
    """No script error, no dialog, no request but the page itself."""
    dialogs = [event for event in page.events if event.get("method") == "Page.javascriptDialogOpening"]
    yield "complains of nothing", "; ".join(page.complaints()) + ("a dialog opened" if dialogs else "")
    yield "asks for nothing", ", ".join(url for url in page.requests() if url != path.as_uri())


def check_readable(page: Page, path: Path) -> Checks:
    """Every text has enough contrast, blurred ones once they are sharpened, and nothing is wider than the window."""
    page.evaluate("document.querySelectorAll('.sharpen').forEach(box => box.click())")
    worst = page.evaluate(CONTRAST)
    faint = {name: round(ratio, 2) for name, ratio in worst.items() if ratio < LEAST_CONTRAST}
    yield f"contrast of {len(worst)} kinds of text", str(faint or "") if worst else "there is no text"
    page.evaluate("document.querySelectorAll('.sharpen').forEach(box => box.click())")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    yield "fits the window", f"{wide} pixels too wide" if wide > 0 else ""


def check_blur(page: Page, path: Path) -> Checks:
    """Ignored tokens are blurred, sharp under the pointer, and all sharp on demand."""
    blurred = "getComputedStyle(document.querySelector('.block s.b')).textShadow"
    yield "ignored tokens are blurred", "" if page.evaluate(blurred) != "none" else "they are sharp"
    _point_at(page, ".block s.b")
    yield "the pointer sharpens one", "" if page.evaluate(blurred) == "none" else "it stays blurred"
    page.hover(1, 1)
    page.evaluate("document.querySelector('.sharpen').click()")
    yield "the switch sharpens all", "" if page.evaluate(blurred) == "none" else "they stay blurred"
    page.evaluate("document.querySelector('.sharpen').click()")


def check_titles(page: Page, path: Path) -> Checks:
    """Pointing at a stretch splits it into its tokens, each with a title, and its text stays."""
    run = ".block span.s.thought"
    before = page.evaluate(f"document.querySelector('{run}').textContent")
    _point_at(page, run)
    after = page.evaluate(f"document.querySelector('{run}').textContent")
    titles = page.evaluate(f"[...document.querySelectorAll('{run} i')].map(token => token.title).slice(0, 3)")
    fine = before == after and titles and all(t.startswith("id ") and ", thought " in t for t in titles)
    yield "tokens have titles", "" if fine else f"{before!r} became {after!r} with {titles}"


def check_responsive(page: Page, path: Path) -> Checks:
    """Jumps through the page take a frame or a few."""
    slowest = max(page.evaluate(JUMPS))
    yield f"slowest of 21 jumps {slowest:.0f} ms", "too slow" if slowest > LONGEST_JUMP_MS else ""


def _point_at(page: Page, selector: str) -> None:
    element = f"document.querySelector('{selector}')"
    page.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getClientRects()[0])")
    page.hover(x, y)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


CHECKS: dict[str, tuple[Callable[[Page, Path], Checks], ...]] = {
    "draws": (check_readable, check_column, check_blur, check_titles, check_quiet),
    "states": (check_readable, check_column, check_quiet),
    "notebook": (check_readable, check_column, check_blur, check_titles, check_quiet),
    "view": (check_readable, check_column, check_titles, check_quiet),
    "report": (check_readable, check_filter, check_keyboard, check_learnt, check_links, check_names, check_quiet),
    "compare": (check_readable, check_filter, check_keyboard, check_names, check_quiet),
    "audit": (check_readable, check_quiet),
    "long": (check_responsive, check_blur, check_titles, check_quiet),
}


def check_page(page: Page, name: str, path: Path, *, dark: bool, width: str) -> Checks:
    load_s = page.open(path.as_uri(), dark=dark, width=WIDTHS[width])
    yield f"painted after {load_s:.1f} s", "too slow" if load_s > LONGEST_LOAD_S else ""
    for check in CHECKS[name]:
        yield from check(page, path)


def check_the_checks(page: Page, folder: Path) -> Checks:
    """A page with every fault: each must be found, or the checks above mean nothing."""
    bad = folder / "bad.html"
    bad.write_text(
        "<body style='width: 9000px; color: #ddd'>faint<img src='http://127.0.0.1:9/x'><script>nope()</script>"
    )
    page.open(bad.as_uri())
    faults = [fault for check in (check_quiet, check_readable) for _, fault in check(page, bad)]
    yield "a bad page is found out", "" if len(faults) == 4 and all(faults) else f"found only {faults}"


def main(shots: Path | None) -> int:
    executable = find_chromium()
    if executable is None:
        print("browser: NOT RUN, there is no Chromium on PATH")
        return 0
    failed = count = 0
    with tempfile.TemporaryDirectory() as temporary, open_browser(executable) as page:
        folder = Path(temporary)
        outcomes = [("checks", outcome) for outcome in check_the_checks(page, folder)]
        for name, path in make_pages(folder).items():
            for dark, width in ((False, "wide"), (True, "wide"), (False, "narrow")):
                look = f"{name}, {'dark' if dark else 'light'}, {width}"
                outcomes += [(look, outcome) for outcome in check_page(page, name, path, dark=dark, width=width)]
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(shots / f"{look.replace(', ', '_')}.png")
        for look, (what, fault) in outcomes:
            count += 1
            failed += bool(fault)
            if fault:
                print(f"browser: FAILED {look}: {what}: {fault}")
    print(f"browser: {count - failed} of {count} checks passed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
