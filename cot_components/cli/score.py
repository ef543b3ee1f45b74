"""Score every token of a config's data with a model: loss, entropy, rank, top probability.

One pass without gradients over the training rows as encoded, transforms left out, LoRA adapters off. The scores go to
`scores` in output_dir: memory-mapped columns for selectors and transforms such as Highlight, TopGap and Prune, and
scores.parquet for other tools. If interrupted, run the same command again to continue. Like training, this runs the
config as code.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from cot_components.cli.shipped import add_config_arguments, read, with_defaults
from cot_components.errors import UserError

RUNS_CONFIG = True
EXAMPLES = (
    "cot score bt_sft/quickstart",
    "cot score my.yaml --model models/teacher --name teacher",
    "cot score my.yaml --columns nll,entropy --out scores/base --nproc 2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, allow=False)
    said = "a model in Hugging Face layout, a run, or a checkpoint, instead of the config's model"
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=said)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: scores in the config's output_dir")
    said = "of nll, entropy, rank, top_probability (default all)"
    parser.add_argument("--columns", metavar="A,B", help=said)
    said = "prefix of the columns' names, so that one folder can hold several models' scores"
    parser.add_argument("--name", default="", metavar="WORD", help=said)
    said = "tokens per forward pass, padding included (default 16384)"
    parser.add_argument("--tokens", type=int, default=16_384, metavar="N", help=said)
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="processes that share the work")


def run(options: argparse.Namespace) -> int:
    for name in ("nproc", "tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(options, name)}")
    try:
        several = options.nproc > 1 and "RANK" not in os.environ
        return _several(options.words, options.nproc) if several else _score(options)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130


def _score(options: argparse.Namespace) -> int:
    from cot_components.losses.measures import MEASURES
    from cot_components.tools.score import score_config, summary

    measures = options.columns.split(",") if options.columns else tuple(MEASURES)
    scores = score_config(
        with_defaults(*read(options)),
        model=options.model and options.model.expanduser(),
        out=options.out,
        measures=measures,
        name=options.name,
        max_tokens=options.tokens,
    )
    if os.environ.get("RANK", "0") == "0":
        before = f"{options.name}_" if options.name else ""
        print("\n".join(summary(scores, [f"{before}{what}" for what in measures])))
        print(scores.folder / "scores.parquet")
    return 0


def _several(words: list[str], nproc: int) -> int:
    """The same command in several processes, as torchrun starts them; the exit code of the first that fails."""
    from torch.multiprocessing import ProcessExitedException, start_processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it reports the processes it ends
    try:
        start_processes(_one, args=(words, nproc, port), nprocs=nproc, start_method="spawn")
    except ProcessExitedException as error:  # the process has printed the reason
        return error.exit_code
    return 0


def _one(rank: int, words: list[str], nproc: int, port: int) -> None:
    from cot_components.cli.main import main

    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": nproc, "LOCAL_WORLD_SIZE": nproc, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in facts.items()}, MASTER_ADDR="127.0.0.1")
    raise SystemExit(main(words))
