"""Every combination of methods, as configs of tiny runs: which are refused, and few that hold all pairs."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf
from tiny_runs import run

from cot_components.cli.main import main as cot
from cot_components.config import find_config

ROWS, STEPS = 24, 3
TRANSFORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "Blur": {"ratio": 0.5, "keep_first": 0},
    "ByRole": {"factors": {"thought": 0.5}},
    "Highlight": {"scores": "{hub}/matrix_scores/scores"},
    "TopGap": {"scores": "{hub}/matrix_scores/scores"},
    "Cap": {"max_tokens": 110},
    "Prune": {"scores": "{hub}/matrix_scores/scores", "column": "original", "ratio": 0.4},
    "Truncate": {"at_least": 4, "at_most": 20},
    "Corrupt": {"by": 5},
    "Threshold": {"scores": "{hub}/matrix_scores/scores", "column": "original", "keep": 0.5},
    "QTuning": {"scores": "{hub}/matrix_scores/scores", "nll": "original", "entropy": "shuffled"},
}
SELECTORS: dict[str, dict[str, Any]] = {
    "AtRandom": {"keep": 0.75},
    "PoFT": {"scores": "{hub}/matrix_scores/scores", "column": "original", "aligned": ["shuffled"]},
}
RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "GroupSoftmax": {"tau": 3.0},
    "GroupShares": {"shares": [0.4, 0.6]},
}
LOSSES: dict[str, dict[str, Any]] = {"sft": {}, "dft": {}, "asft": {}, "target_sft": {"eta": 0.5}}


class Cell(NamedTuple):
    transform: str
    curriculum: str
    rule: str
    loss: str
    reference: str
    packed: bool
    dataset_val: bool
    trainable: str = "none"
    selected: bool = False


AXES = Cell(
    tuple(TRANSFORMS),
    ("none", "Stepwise", "accuracy"),
    tuple(RULES),
    tuple(LOSSES),
    ("none", "FrozenModel", "AdaptersOff", "TopKFile"),
    (False, True),
    (False, True),
    ("none", "Half"),
    (False, True),
)


def cells() -> list[Cell]:
    return [Cell(*options) for options in itertools.product(*AXES)]


def refused(cell: Cell) -> str | None:
    """The key that the refusal of a cell begins with, None where it trains: what the docs say, written again."""
    if (cell.loss in ("asft", "target_sft")) != (cell.reference != "none"):
        return f"the loss {cell.loss}"
    if cell.rule != "none" and cell.transform != "Highlight":
        return "loss.weight_rule"
    removes = cell.curriculum != "none" or cell.transform in ("Prune", "Truncate")
    if cell.packed and (removes or cell.transform == "Cap"):
        return "packed_tokens"
    if removes and cell.reference == "TopKFile":
        return "reference"
    if cell.trainable != "none" and cell.reference == "AdaptersOff":
        return "trainable"
    if cell.curriculum == "accuracy" and not cell.dataset_val:
        return "curriculum.pace"
    return None


def covering() -> list[Cell]:
    """Few cells that train and hold every pair of options which some cell that trains holds."""
    trained = [cell for cell in cells() if refused(cell) is None]
    missing, chosen = {pair for cell in trained for pair in _pairs(cell)}, []
    while missing:
        chosen.append(max(trained, key=lambda cell: len(_pairs(cell) & missing)))
        missing -= _pairs(chosen[-1])
    return chosen


def _pairs(cell: Cell) -> set[tuple[tuple[int, Any], ...]]:
    return set(itertools.combinations(enumerate(cell), 2))


def name_of(cell: Cell) -> str:
    chosen = (f"{axis}={option}" for axis, option in cell._asdict().items() if option not in ("none", False))
    return "-".join(chosen) or "plain"


def config_of(cell: Cell, hub: Path, output_dir: Path) -> dict[str, Any]:
    """The keys of a run of `STEPS` steps on generated rows from the checkpoint in `hub / 'model'`."""
    config = deepcopy(_quickstart())
    config |= {"output_dir": str(output_dir), "evaluation": None, "lr_scheduler": None, "log_every_n_steps": 1}
    config |= {"epochs": 1, "batch_size": 4, "max_steps_per_epoch": STEPS, "save_every_minutes": None}
    config |= {"evaluate_every_n_steps": None, "device": "cpu", "dtype": "fp32"}
    config["tokenizer"]["path"] = str(hub / "model")
    config["model"] = _node("models.from_folder", path=str(hub / "model"), quiet=True)
    config["dataset"] |= {"max_rows": ROWS, "transforms": {}}
    if cell.transform != "none":
        options = _in_hub(TRANSFORMS[cell.transform], hub)
        config["dataset"]["transforms"] = {"one": _node(f"transforms.{cell.transform}", **options)}
    if cell.selected:
        named = {name: _node(f"selectors.{name}", **_in_hub(of, hub)) for name, of in SELECTORS.items()}
        config["dataset"]["select"] = named
    config["loss"] = _node(f"losses.{cell.loss}", **LOSSES[cell.loss])
    if cell.rule != "none":
        config["loss"]["weight_rule"] = _node(f"losses.{cell.rule}", **RULES[cell.rule])
    if cell.curriculum != "none":
        config["curriculum"] = _node("curriculum.Stepwise", per_epoch=9, partial=True)
    if cell.curriculum == "accuracy":
        config["curriculum"] |= {"pace": "accuracy", "measure_every": 1, "cap": 1}
    config["dataset_val"] = 0.25 if cell.dataset_val else None
    config["packed_tokens"] = 300 if cell.packed else None
    if cell.trainable != "none":
        config["trainable"] = _node(f"trainable.{cell.trainable}", redraw=1)
    teacher = {"model": {**config["model"], "path": str(hub / "teacher")}}
    if cell.reference == "FrozenModel":
        config["reference"] = _node("models.reference.FrozenModel", **teacher)
    if cell.reference == "TopKFile":
        config["reference"] = _node("models.reference.TopKFile", folder=f"{output_dir}_top_k", k=8, **teacher)
    if cell.reference == "AdaptersOff":
        config["reference"] = _node("models.reference.AdaptersOff")
        config["model"]["lora"] = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
    return config


@functools.cache
def _quickstart() -> dict[str, Any]:
    quickstart = OmegaConf.load(find_config("bt_sft/quickstart"))
    return OmegaConf.to_container(quickstart)


def _node(component: str, /, **options: Any) -> dict[str, Any]:
    return {"_component_": f"cot_components.{component}", **options}


def _in_hub(options: dict[str, Any], hub: Path) -> dict[str, Any]:
    return {key: value.format(hub=hub) if isinstance(value, str) else value for key, value in options.items()}


def score_rows(hub: Path) -> None:
    """The columns that transforms and selectors read, of the rows that the cells train on."""
    plain = config_of(Cell("none", "none", "none", "sft", "FrozenModel", False, False), hub, hub / "matrix_scores")
    kept = ("output_dir", "tokenizer", "dataset", "model", "optimizer", "reference", "device", "dtype")
    config = {key: plain[key] for key in kept} | {"needs_calls": False, "at_least": 8, "shown_rows": 0}
    (hub / "matrix_scores.yaml").write_text(json.dumps(config))
    assert run("shad", [], config=hub / "matrix_scores.yaml").code == 0


def written(config: dict[str, Any], folder: Path) -> Path:
    path = folder / f"{Path(config['output_dir']).name}.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def validate(config: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What `cot validate` refuses a config with, None where it is valid."""
    code = cot(["validate", str(config), "--recipe", "cot_sft"])
    said = capsys.readouterr().err
    assert (code == 2) == said.startswith("error: "), said
    return said.removeprefix("error: ").strip() or None if code else None


def train(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[float], str | None]:
    """Exit code of `tune run cot_sft`, the loss of every step, and what it was refused with."""
    seen = run("cot_sft", [], config=config)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    print(*errors, file=sys.stderr)
    return seen.code, [loss for _, _, loss in seen.steps], errors[-1].removeprefix("error: ") if errors else None
