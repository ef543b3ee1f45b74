"""Evaluations on disk: where a run saves them, and how to read one."""

from __future__ import annotations

import re
from pathlib import Path

from cot_components.config import check, fits
from cot_components.errors import UserError
from cot_components.evaluation.evaluate import Evaluation, Example
from cot_components.evaluation.token_losses import PieceLoss, TokenLosses
from cot_components.files import entries, read_object
from cot_components.runs.layout import EVALUATIONS

_STEP = re.compile(r"step_(\d+)\.json")


def read_evaluation(path: str | Path) -> Evaluation:
    """An evaluation written by `Evaluation.save`.

    Raises:
        UserError: no such file, or not an evaluation; names what in it has the wrong type.
    """
    saved = read_object(Path(path))
    try:
        given = {name: saved[name] for name in ("examples", "num_samples", "losses")}
        given |= {name: saved.get(name) for name in ("held_out", "max_thought_tokens")}
        given["token_losses"] = tuple(map(_read_token_losses, saved.get("token_losses", ())))
        check(Evaluation, given)
        if not all(fits(loss, float) for loss in given["losses"].values()):
            raise UserError("losses must be numbers")
        if not 1 <= given["num_samples"] <= max(len(given["examples"]), 1):
            raise UserError(f"num_samples is {given['num_samples']}")
        return Evaluation(tuple(map(_read_example, given.pop("examples"))), **given)
    except KeyError as error:
        raise UserError(f"{path}: not a saved evaluation ({error} is missing)") from error
    except UserError as error:
        raise UserError(f"{path}: not a saved evaluation ({error})") from error


def _read_example(saved: object) -> Example:
    if not isinstance(saved, dict):
        raise UserError(f"an example is {saved!r:.40}")
    check(Example, saved, "examples")
    turns = saved["prompt"]
    if not all(isinstance(t, dict) and all(isinstance(t.get(k), str) for k in ("role", "content")) for t in turns):
        raise UserError("examples.prompt must be turns with a role and a content")
    return Example(**{**saved, "prompt": tuple(turns)})


def _read_token_losses(saved: object) -> TokenLosses:
    try:
        read = TokenLosses(saved["row_id"], tuple(PieceLoss(*piece) for piece in saved["pieces"]))  # type: ignore[index]
    except (KeyError, TypeError) as error:
        raise UserError(f"token_losses of a row are {saved!r:.40}") from error
    if not fits(read.row_id, int) or not all(
        fits(piece.text, str) and fits(piece.role, str) and fits(piece.loss, float | None) for piece in read.pieces
    ):
        raise UserError(f"token_losses of row {read.row_id!r:.40} have the wrong types")
    return read


def saved_evaluations(run_dir: Path) -> dict[int, Path]:
    """The files of all evaluations that a run saved, by step, in order."""
    found = ((_STEP.fullmatch(path.name), path) for path in entries(run_dir / EVALUATIONS))
    return dict(sorted((int(step[1]), path) for step, path in found if step))
