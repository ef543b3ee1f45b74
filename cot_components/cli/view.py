"""Show token by token what a config trains on, after its transforms: role, whether in the loss, weight.

Reads and encodes the whole data set as a run does (dataset.max_rows=200 is quicker); builds no model. The page that
--out writes shows redraws and the stages of a curriculum side by side. A run on several processes has more rows per
step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cot_components.cli.shipped import add_config_arguments, read, with_defaults
from cot_components.errors import UserError

EXAMPLES = (
    "cot view bt_sft/quickstart",
    "cot view bt_sft/quickstart dataset.transforms.blur.ratio=0.8 --n 1 --epochs 0,1,2 --out tokens.html",
    "cot view icot_sft/quickstart --out stages.html",
)


def _epochs(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list such as 0,1,2") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--n", type=int, default=3, metavar="ROWS", help="rows shown (default 3)")
    parser.add_argument("--epochs", type=_epochs, metavar="0,1,2", help="default: the first three, or the stages")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write a page instead of printing")


def run(options: argparse.Namespace) -> int:
    from cot_components.tools.preview import preview
    from cot_components.training.finish import token_view
    from cot_components.viz.console import plain_console
    from cot_components.viz.visible import one_line

    if options.n < 1:
        raise UserError(f"--n must be at least 1, got {options.n}")
    found = preview(with_defaults(*read(options)), epochs=options.epochs)
    view = token_view(found.data, rows=options.n, clocks=found.clocks)
    console = plain_console()
    if options.out is None:
        console.print(view)
    console.print(found.summary(), soft_wrap=True)
    if options.out is not None:
        console.print(one_line(f"page  {view.save(options.out)}"), soft_wrap=True)
    return 0
