"""SmolLM2-135M as studies use it: where runs start, how long they are, which tasks have a signal.

A step has 512 tokens and takes about 4 to 5 s of one core; 100 answers take 60 to 90 s. At CPU size a cell takes at
most six minutes, which is all that a stopped study repeats.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cot_components.errors import UserError
from cot_components.evaluation.compare import last_evaluation
from cot_components.evaluation.evaluate import Evaluation
from cot_components.models.smollm2 import cached_smollm2
from experiments.measures import outcome
from experiments.runner import recipe
from experiments.starts import QUIET, once_trained
from experiments.study import Cell, Study, read_cells

CONFIG = "bt_sft/quickstart_real"
TOKENS = 512
"""Per step."""
NO_BLUR = "dataset.transforms.blur.ratio=0"
SIGNAL = (0.1, 0.7)
"""Range of a start's accuracy in which a method can gain and lose."""
CALLS = [
    *("evaluation.source=generated_agents", "evaluation.subset=tagged", "evaluation.extractor=tool_calls"),
    "evaluation.max_new_tokens=64",
]
"""Evaluates held-out calls instead of small problems."""


class Size(NamedTuple):
    """steps: of 512 tokens; questions: of the evaluation; overrides: of every run."""

    steps: int
    questions: int
    overrides: Sequence[str] = ()


CPU = Size(40, 100)
ON_GPU = Size(120, 500, ["device=cuda", "dtype=bf16"])
"""Has more arms, and searches the learning rate of each in `GPU_RATES`."""
GPU_RATES = (5e-5, 1e-4, 2e-4)


def from_model(model: Path) -> list[str]:
    """Overrides that start a run of `bt_sft/quickstart_real` from a folder."""
    return [f"model.path={model}", f"packed_tokens={TOKENS}"]


def instruct(cell: Cell) -> Path:
    """The model as `cot get smollm2` downloads it."""
    return cached_smollm2()


def taught(cell: Cell) -> Path:
    """After 20 steps on correctly solved small problems, the same for all seeds: it thinks aloud and is often wrong."""
    return _once(cell, "smollm2_taught", f"{NO_BLUR}", "max_steps_per_epoch=20")


def good(cell: Cell) -> Path:
    """A teacher: 150 steps on correctly solved small problems, the same for all seeds."""
    return _once(cell, "smollm2_good", f"{NO_BLUR}", "max_steps_per_epoch=75", "epochs=2")


def caller(cell: Cell) -> Path:
    """After 20 steps on calls, most of them in formats other than the tested one, the same for all seeds."""
    calls = ["dataset.source=generated_agents", "dataset.subset=drawn tagged react python", "dataset.transforms=null"]
    return _once(cell, "smollm2_caller", *calls, "max_steps_per_epoch=20")


def _once(cell: Cell, name: str, *overrides: str) -> Path:
    return once_trained(cell._replace(seed=0), name, "cot_sft", CONFIG, *QUIET, *from_model(instruct(cell)), *overrides)


def train(cell: Cell, size: Size, *overrides: str) -> tuple[Path, Evaluation]:
    """One run: its folder, which the caller must remove, and its final evaluation."""
    out = cell.fresh_folder()
    rate = [] if cell.rate is None else [f"optimizer.lr={cell.rate}"]
    length = [f"max_steps_per_epoch={size.steps}", f"evaluation.max_rows={size.questions}"]
    still = ["evaluate_before_training=false", f"output_dir={out}", f"seed={cell.seed}"]
    recipe("cot_sft", CONFIG, *length, *still, *rate, *size.overrides, *overrides)
    return out, last_evaluation(out)


def figures(run: tuple[Path, Evaluation]) -> dict[str, float]:
    """Accuracy and held-out losses of a run; removes its folder."""
    out, result = run
    shutil.rmtree(out)
    return outcome(result)


def need_signal(screening: Study, task: str, start: str) -> None:
    """Check that the start of a study can both gain and lose.

    Raises:
        UserError: the task has not been screened, or its start is too close to a floor or a ceiling.
    """
    found: Mapping[tuple[str, str], float] = {(c.arm, c.setting): c.figures["accuracy"] for c in read_cells(screening)}
    low, high = SIGNAL
    if (start, task) not in found:
        raise UserError(f"{task} has not been screened: make evidence STUDY={screening.name}")
    if not low <= found[start, task] <= high:
        told = f"{100 * found[start, task]:.0f} % of {task} right before training"
        raise UserError(f"no signal: {told}, a study needs {100 * low:.0f} to {100 * high:.0f} %")
