"""The work of `cot score`: score a config's data with a model in one pass, into a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cot_components.config import COMPONENT, build
from cot_components.config.components import nearest
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.scores import Scores
from cot_components.errors import UserError
from cot_components.losses.measures import MEASURES
from cot_components.models.load import check_start, load_model, weights_key
from cot_components.models.lora_layers import adapters_off, has_adapters
from cot_components.models.score import Asked, as_it_is, score_data
from cot_components.models.tokenizers import as_text_tokenizer, hf_tokenizer
from cot_components.training.distributed import World, shard, start
from cot_components.training.precision import DTYPES
from cot_components.training.setup import fit_rows, pick_device
from cot_components.training.shuffled import weights_hash

IN_A_RUN = ("", "model", "hf")
"""Where the model may be in a folder that a user names: the folder itself, a run's, a checkpoint's."""


def score_config(
    values: Mapping[str, Any],
    *,
    model: Path | None = None,
    out: Path | None = None,
    measures: Sequence[str] = tuple(MEASURES),
    name: str = "",
    max_tokens: int = 16_384,
    data: ReasoningDataset | None = None,
) -> Scores:
    """Score the training rows of a checked config, before any transform, with adapters off; continues an interrupted
    pass.

    Args:
        values: a recipe's keys with their values; see `training.recipe.read_config`.
        model: folder of another model than the config's: in Hugging Face layout, of a run, or of a checkpoint.
        out: folder of the scores; None is `scores` in `output_dir`.
        measures: names in `losses.measures.MEASURES`, one column each.
        name: prefix of the columns' names, so that one folder can hold several models' scores.
        max_tokens: tokens per forward pass, padding included.
        data: used instead of the config's data.

    Raises:
        UserError: no data or model in the config; another vocabulary; see `score_data`.
    """
    for unknown in (word for word in measures if word not in MEASURES):
        raise UserError(f"no measure '{unknown}'{nearest(unknown, MEASURES)}")
    node = model_node(values, model)
    check_start(node)
    if values.get("dtype") not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {values.get('dtype')!r}")
    world = start(pick_device(values.get("device") or "auto"))
    data = plain_data(values) if data is None else data
    net = load_model(node, device=world.device, dtype=DTYPES[values["dtype"]], seed=values.get("seed") or 0)
    check_vocabulary(node.get("path"), data)
    fit_rows(net, data)
    view, key = (adapters_off if has_adapters(net) else as_it_is), weights_hash(net, adapters=False)
    world.agree({"the data": data.rows.content_hash(), "the model": key})
    shard(net, world)
    before = f"{name}_" if name else ""
    scores = score_data(
        net,
        data,
        out or Path(str(values["output_dir"])).expanduser() / "scores",
        {f"{before}{what}": Asked(key, what, view) for what in measures},
        max_tokens=max_tokens,
        processes=world,
    )
    return _left(world, scores)


def _left(world: World, scores: Scores) -> Scores:
    world.close()
    return scores


def plain_data(values: Mapping[str, Any]) -> ReasoningDataset:
    """All rows of a config without its selectors and transforms, which may need the very scores being made.

    Raises:
        UserError: it has none.
    """
    if not values.get("dataset"):
        raise UserError("the config has no dataset, so there is nothing to score")
    node = {key: value for key, value in values["dataset"].items() if key not in ("select", "transforms")}
    return replace(build(node, build(values["tokenizer"], where="tokenizer"), where="dataset"), transforms={})


def model_node(values: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The config's node `model`, or one that loads the model in a folder.

    Raises:
        UserError: the folder holds no model, or neither is given.
    """
    if folder is None:
        if not values.get("model"):
            raise UserError("the config has no model; set one with --model FOLDER")
        return dict(values["model"])
    for inner in IN_A_RUN:
        if (folder / inner / "config.json").is_file():
            return {COMPONENT: "cot_components.models.from_folder", "path": str(folder / inner), "quiet": True}
    raise UserError(f"--model: {folder} holds no model (no config.json, nor one in model/ or hf/)")


def check_vocabulary(path: str | None, data: ReasoningDataset) -> None:
    """Check that the tokenizer in a model's folder, if any, has the same tokens for the ids of the data.

    Raises:
        UserError: it does not; names the first differing id and both tokens.
    """
    if path is None or not (Path(path).expanduser() / "tokenizer.json").is_file():
        return
    ours = data.chat.tokenizer
    with suppress(UserError):
        theirs = as_text_tokenizer(hf_tokenizer(str(Path(path).expanduser())))
        if theirs.content_hash == ours.content_hash:
            return
    used = np.unique(data.rows.tokens)
    for token_id in used[used < theirs.vocab_size].tolist():
        mine, other = ours.decode([token_id]), theirs.decode([token_id])
        if mine != other:
            raise UserError(
                f"{path}: token {token_id} is {other!r} there and {mine!r} in the data; a model can only score rows "
                "made with its own tokenizer: set tokenizer.path, and score into another folder"
            )


def summary(scores: Scores, names: Sequence[str]) -> list[str]:
    """One line about the pass, and one about each of these columns."""
    lines = [f"{len(scores.ids):,} rows, {scores.meta['num_scored']:,} supervised tokens"]
    for name in names:
        values = scores.finished(name).astype(np.float64)
        if len(values):
            middle = np.quantile(values, [0.1, 0.5, 0.9])
            lines.append(
                f"  {name:<24} mean {values.mean():.4g}, 10 / 50 / 90 % {' / '.join(f'{q:.4g}' for q in middle)}"
            )
    return lines


def score_for_audit(values: Mapping[str, Any], model: Path, data: ReasoningDataset) -> Scores:
    """Loss and entropy of these rows under the model in a folder, stored separately for each model and data."""
    key = hashlib.sha256(f"{weights_key(model_node(values, model))}{data.rows.content_hash()}".encode()).hexdigest()
    return score_config(
        values,
        model=model,
        out=Path(str(values["output_dir"])).expanduser() / "audit" / key[:12],
        measures=("nll", "entropy"),
        data=replace(data, transforms={}),
    )
