"""What a finished run found in the end, to set runs side by side."""

from __future__ import annotations

from pathlib import Path

from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.saved import read_evaluation, saved_evaluations


def last_evaluation(run_dir: Path) -> Evaluation:
    """The evaluation of the highest step that a run saved.

    Raises:
        UserError: the folder holds none.
    """
    saved = saved_evaluations(run_dir)
    if not saved:
        raise UserError(f"{run_dir} holds no evaluation; is it the output_dir of a finished run?")
    return read_evaluation(saved[max(saved)])
