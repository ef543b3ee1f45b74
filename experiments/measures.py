"""Measurements of a trained model that several studies share."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cot_components.cli.shipped import recipe_for
from cot_components.data.generated.dialogues import agent_truth
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.scores import scored_tokens
from cot_components.data.text.segments import Tags
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.extract import split_completion
from cot_components.evaluation.saved import read_evaluation
from cot_components.training.recipe import read_config
from cot_components.transforms.discriminator import BOILERPLATE, REASONING
from experiments.runner import recipe

CLASS_NUMBERS = {"boilerplate": BOILERPLATE, "reasoning": REASONING}


class Scored(NamedTuple):
    """The rows of a config, each token's loss under some model in nats, and which tokens are supervised."""

    data: ReasoningDataset
    nll: np.ndarray
    where: np.ndarray

    def loss(self, within: np.ndarray | None = None) -> float:
        """Mean over all supervised tokens, or over those within a mask, in nats."""
        return float(self.nll[self.where if within is None else self.where & within].mean())


def scored(model: Path, tune_recipe: str, config: str, *overrides: str) -> Scored:
    """The losses of a run's model on the rows of a config, before any transform."""
    from cot_components.tools.score import plain_data, score_config

    out = model.with_name(f"{model.name}_scores")
    shutil.rmtree(out, ignore_errors=True)
    chosen = recipe_for(config, asked=tune_recipe)
    values = read_config(chosen.main, ["--config", config, f"output_dir={out}", *overrides], chosen.supplies)
    data = plain_data(values)
    nll = np.asarray(score_config(values, model=model, out=out, measures=("nll",), data=data).column("nll"))
    shutil.rmtree(out)
    return Scored(data, nll.astype(np.float64), scored_tokens(data.rows))


def by_true_class(model: Path, subset: str, num_rows: int, *overrides: str) -> dict[str, float]:
    """Held-out losses of generated calls: tokens that the request determines (reasoning), all others (boilerplate)."""
    split = "held_out"
    node = [f"dataset.{key}" for key in (f"split={split}", f"subset={subset}", f"max_rows={num_rows}")]
    found = scored(model, "rft", "rft/quickstart", *node, "dataset.transforms=null", *overrides)
    decode = found.data.chat.tokenizer.decode
    truth = agent_truth(found.data.rows, decode, split=split, subset=subset, max_rows=num_rows)
    return {f"loss_{name}": found.loss(truth == number) for name, number in CLASS_NUMBERS.items()}


def outcome(result: Evaluation) -> dict[str, float]:
    """Accuracy and held-out losses of an evaluation with questions."""
    assert result.answer_accuracy is not None
    return {"accuracy": result.answer_accuracy, **result.losses}


CALL_METRICS = {
    "loss_reasoning": "held-out loss on true reasoning, nats",
    "loss_boilerplate": "held-out loss on true boilerplate, nats",
    "accuracy": "held-out calls correct",
    "readable": "answers with a call that can be read",
    "right_if_readable": "of these, right",
}
"""Labels of what `by_true_class`, `outcome` and `calls` return."""


def calls(result: Evaluation) -> dict[str, float]:
    """Share of answers with a readable call, and the share of right ones among these, if there are any."""
    readable = [bool(example.correct) for example in result.examples if example.extracted is not None]
    right = {"right_if_readable": sum(readable) / len(readable)} if readable else {}
    return {"readable": len(readable) / len(result.examples), **right}


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
    """Share of thoughts whose wording, without numbers and names, differs from all earlier ones."""
    told = [split_completion(example.completion, Tags())[0] or "" for example in result.examples]
    return len({re.sub(r"\d+|[A-Z][a-z]+", "_", thought) for thought in told}) / max(len(told), 1)
