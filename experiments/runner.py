"""Arms x settings x seeds, cell by cell: a study can be stopped at any time and resumed."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cot_components.errors import UserError
from cot_components.training.setup import pick_device, versions
from cot_components.training.throughput import chip_name
from experiments.study import SEARCH_SEED, Cell, Result, Study, chosen_rate, keep, read_cells, read_searches

SCRATCH = Path("runs") / "experiments"


def run(study: Study, *, seeds: int | None = None, jobs: int = 1) -> None:
    """Run every cell that is not finished yet, `jobs` at a time; seed by seed, so that finished ones can be compared.

    The arms of a setting and seed run one after another: what they share in `Cell.scratch` is created once. The search
    over `Study.rates` comes first.
    """
    scratch = SCRATCH / study.name
    scratch.mkdir(parents=True, exist_ok=True)
    _search_rates(study, scratch)
    with ThreadPoolExecutor(jobs) as pool:
        groups = [
            pool.submit(_run_group, study, setting, seed, scratch)
            for seed in range(study.seeds if seeds is None else seeds)
            for setting in study.settings
        ]
        try:
            for group in groups:
                group.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _search_rates(study: Study, scratch: Path) -> None:
    finished = {(result.arm, result.setting, result.rate) for result in read_searches(study)}
    for setting in study.settings:
        for arm, rates in study.rates.items():
            for rate in rates:
                if (arm, setting, rate) not in finished:
                    _run_cell(study, Cell(arm, setting, SEARCH_SEED, scratch, rate))


def _run_group(study: Study, setting: str, seed: int, scratch: Path) -> None:
    finished = {(result.arm, result.setting, result.seed) for result in read_cells(study)}
    for arm in study.arms:
        if (arm, setting, seed) not in finished:
            _run_cell(study, Cell(arm, setting, seed, scratch, chosen_rate(study, arm, setting)))


def _run_cell(study: Study, cell: Cell) -> None:
    started = time.perf_counter()
    figures = dict(study.cell(cell))
    seconds = round(time.perf_counter() - started, 1)
    ran_on = {**versions(), "cpu threads": "1", "chip": chip_name(pick_device("auto"))}  # recipes run on one thread
    keep(study, Result(*cell[:3], figures, seconds, ran_on, study.rules, cell.rate))
    print(f"{cell.setting} {cell.arm} seed {cell.seed}: {figures} ({seconds} s)", flush=True)


def recipe(name: str, config: str, *overrides: str) -> None:
    """`tune run NAME --config CONFIG OVERRIDES`, silently and on one core: results do not depend on how many there are.

    Forked from a process that has imported everything, which would take a quarter of the time of a small training.

    Raises:
        UserError: the run failed; contains the end of its output.
    """
    with tempfile.NamedTemporaryFile() as said:
        words = ["--config", config, *overrides]
        process = _FORKS.Process(target=_main_of, args=(name, words, said.name))
        process.start()
        process.join()
        if process.exitcode:
            told = Path(said.name).read_text(errors="replace")[-2000:]
            raise UserError(f"tune run {name} {' '.join(words)} failed with exit code {process.exitcode}: {told}")


def once(cell: Cell, words: Sequence[str], measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """What `measure` returns, cached by words and versions across the cells of all studies."""
    told = json.dumps([*words, versions()])
    digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    kept = cell.scratch.parent / "trained" / f"{digest}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(measure()), encoding="utf-8")
        os.replace(unfinished, kept)
    figures: dict[str, float] = json.loads(kept.read_text())
    return figures


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["bt_sft", "cot_eval", "torch._dynamo", "torchtune.models", "torchtune.training"])


def _main_of(name: str, words: list[str], said: str) -> None:
    import torch

    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = [name, *words]
    importlib.import_module(name).main()
