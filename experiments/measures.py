"""What several studies measure of the model that a run has left."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from cot_components.data.text.segments import Tags
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.extract import split_completion
from cot_components.evaluation.saved import read_evaluation
from experiments.runner import recipe


def sampled_wordings(run: Path, *overrides: str) -> float:
    """Diversity of thoughts: one sample at temperature 1 for each held-out question, then `wordings`."""
    out = run.with_name(f"{run.name}_sampled")
    shutil.rmtree(out, ignore_errors=True)
    drawn = ["evaluation.temperature=1.0", f"output_dir={out}", *overrides]
    recipe("cot_eval", "cot_eval/quickstart", f"model.path={run / 'model'}", *drawn)
    share = wordings(read_evaluation(out / "evaluation.json"))
    shutil.rmtree(out)
    return share


def wordings(result: Evaluation) -> float:
    """Share of the thoughts whose wording, with every number and name taken out, is that of no earlier one."""
    told = [split_completion(example.completion, Tags())[0] or "" for example in result.examples]
    return len({re.sub(r"\d+|[A-Z][a-z]+", "_", thought) for thought in told}) / max(len(told), 1)
