"""Check a config as its recipe does, without building anything.

Checks every key, type and component, whether methods combine, the folder of the starting weights (its config.json and
tensor headers), and the files of the data and the tokenizer. Reports the first fault in one sentence, with exit code 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.cli.shipped import add_config_arguments, read, with_defaults
from cot_components.errors import GET_IT, UserError

EXAMPLES = (
    "cot validate bt_sft/quickstart",
    "cot validate my.yaml batch_size=4 dataset.transforms.blur.ratio=0.5",
    "cot validate my.yaml --recipe my_bt_sft.py",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(options: argparse.Namespace) -> int:
    from cot_components.config import COMPONENT
    from cot_components.data.sources import read_sources
    from cot_components.models.load import check_start
    from cot_components.training.combination import combine

    recipe, values = read(options)
    if recipe.ours:
        if {"loss", "dataset", "model"} <= values.keys():
            combine(with_defaults(recipe, values))
        check_start(values.get("model"), packed=values.get("packed_tokens") is not None)
        check_start((values.get("reference") or {}).get("model"), "reference.model")
        for key in ("dataset", "dataset_val", "evaluation"):
            node = values.get(key)
            place = node.get("source") if isinstance(node, dict) else node if isinstance(node, str) else None
            for source in read_sources(place) if place else ():
                source.check()
        tokenizer = (values.get("tokenizer") or {}).get("path")
        if isinstance(tokenizer, str) and not Path(tokenizer).expanduser().exists():
            raise UserError(f"tokenizer.path: {tokenizer} does not exist ({GET_IT})")
    components = str(values).count(f"'{COMPONENT}'")
    about = f"the recipe {recipe.name} takes all {len(values)} keys" if recipe.ours else f"{recipe.name} is torchtune's"
    print(f"{options.config} is valid: {about}, {components} components take theirs")
    return 0
