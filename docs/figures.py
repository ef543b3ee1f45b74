"""The pictures of README.md and docs/methods.md, from the runs that the quickstarts leave behind: `make figures`.

    python docs/figures.py [RUNS [IMAGES]]

Pictures whose runs are absent are left as they are, and said so. Token views are looked at by a Chromium on PATH.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the browser of the tests


from browser.chromium import find_chromium, open_browser  # noqa: E402

from cot_components.viz.curves import plot_run  # noqa: E402
from cot_components.viz.panels import internalisation_panels  # noqa: E402
from cot_components.viz.targets import plot_targets  # noqa: E402

STUDENT, TEACHER, OBSERVED = [2.0, 1.0, 0.5, -1.0], [0.5, 2.5, 0.0, -0.5], 1
WEIGHTS = "dataset.transforms.weights"
CLASSES_AS_WEIGHTS = [
    f"{WEIGHTS}._component_=cot_components.transforms.ByGroup",
    f"{WEIGHTS}.boilerplate=0.4",
    f"{WEIGHTS}.reasoning=4",
]
"""Makes the classes of the discriminator visible: the weights of RFT itself change with the loss."""


def shoot(page: Path, image: Path, *, section: str, width: int, height: int) -> None:
    """The top `height` pixels of one section of a page, `width` wide."""
    executable = find_chromium()
    if executable is None:
        raise SystemExit("figures: there is no Chromium on PATH")
    with open_browser(executable) as tab:
        tab.open(page.absolute().as_uri(), width=width, height=900)
        # Blocks out of sight are not painted, and a captured surface is not a sight.
        tab.evaluate("document.querySelectorAll('.block').forEach(block => block.style.contentVisibility = 'visible')")
        tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        top = tab.evaluate(f"document.getElementById('{section}').getBoundingClientRect().top + 20")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 2}
        shot = tab.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    image.write_bytes(base64.b64decode(shot["data"]))


def cot(*arguments: str | Path) -> int:
    """A command of its own process; its exit code."""
    return subprocess.call([Path(sys.executable).with_name("cot"), *arguments])


def view(image: Path, config: str, *options: str, height: int) -> int:
    """The first row of what a config trains on; the exit code of `cot view`."""
    with tempfile.TemporaryDirectory() as temporary:
        page, tokenizer = Path(temporary) / "tokens.html", Path(temporary) / "tiny_llama"
        few = [f"tokenizer.path={tokenizer}", "dataset.max_rows=48"]  # as many as experiments/logs keeps scores of
        failed = cot("tiny", tokenizer) or cot("view", config, *few, *options, "--n", "1", "--out", page)
        if not failed:
            shoot(page, image, section="row-0", width=1140, height=height)
    return failed


def find_run(runs: Path, name: str, needs: str) -> Path | None:
    """The folder of a run that holds `needs`: the reader's own, else the one kept in experiments/logs."""
    for folder in (runs / name, ROOT / "experiments" / "logs" / name):
        if (folder / needs).exists():
            return folder
    print(f"figures: {runs / name} is not there; the quickstarts make it")
    return None


def main(argv: Sequence[str]) -> int:
    """Draw what can be drawn; returns the exit code."""
    runs = Path(argv[0]) if argv else Path("runs")
    images = Path(argv[1]) if len(argv) > 1 else ROOT / "docs" / "images"
    plot_targets(STUDENT, OBSERVED, TEACHER, tokens=["six", "nine", "ten", "cat"], path=images / "targets.png")
    failed = 0
    if (run := find_run(runs, "bt_sft_quickstart", "log.jsonl")) is not None:
        failed |= cot("compare", run, "--out", images / "bt_sft_quickstart_curves.png")
    failed |= view(images / "bt_sft_quickstart_tokens.png", "bt_sft/quickstart", "--epochs", "0,1", height=332)
    without = find_run(runs, "icot_sft_no_cot", "log.jsonl")
    run = find_run(runs, "icot_sft_quickstart", "log.jsonl")
    if run is not None and without is not None:
        plot_run([without, run], images / "internalisation.png", panels=internalisation_panels)
    without = find_run(runs, "icot_sft_cpu_3x3_no_cot", "log.jsonl")
    run = find_run(runs, "icot_sft_cpu_3x3", "log.jsonl")
    if run is not None and without is not None:
        plot_run([without, run], images / "internalisation_3x3.png", panels=internalisation_panels)
    if (run := find_run(runs, "shad_quickstart", "scores")) is not None:
        shown = [f"dataset.transforms.highlight.scores={run / 'scores'}", *CLASSES_AS_WEIGHTS]
        failed |= view(images / "shad_quickstart_classes.png", "rft/quickstart", *shown, height=200)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
