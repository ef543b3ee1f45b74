"""Break real runs again and again and look whether anything was lost: `make soak`, or

    PYTHONPATH=tests/helpers python tests/soak.py --kills 30 --seed 0

Every training recipe goes through the whole list of faults, a process each: killed at every stage of a save and in
the middle of a step, stopped by signals, broken by an error, a NaN and a full disk, its newest checkpoint damaged, its
folder in use, its config changed. `bt_sft` is also killed at random moments of a real `tune run`. After each the same
command goes on where it was. In the end weights, optimizer, generators, export, evaluations and log must be those of a
run that nothing disturbed, bit for bit. Last, every file of a run's folder is broken in every way before every `cot`
command that reads it (see `fuzz_folder`). Prints one line per fault and the counts; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from commands import TUNE, environment, must, tune
from faulty import main as faulty
from fuzz_folder import Fuzz, cases
from tiny_runs import (
    FILES,
    PER_EPOCH,
    checkpoint,
    differences,
    flip,
    overrides_for,
    records,
    saved_steps,
    score,
    training_recipes,
)

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.runs.checkpoint import damage, find_newest
from cot_components.runs.folder import lock, release

EPOCHS = 9


class Fault(NamedTuple):
    """What a process is hit with: where, at which time it comes there, how; the exit code that must follow."""

    point: str
    count: int
    how: str
    code: int


IN_A_RUN = [
    *(
        Fault(point, 2, "kill", -signal.SIGKILL)
        for point in ("after model.safetensors", "after optimizer.safetensors", "after random.safetensors")
    ),
    *(Fault(point, 2, "kill", -signal.SIGKILL) for point in ("before manifest", "before rename", "before prune")),
    Fault("forward", 4, "kill", -signal.SIGKILL),
    Fault("forward", 3, "term", 143),
    Fault("forward", 4, "int", 130),
    Fault("before rename", 1, "term", 143),
    Fault("evaluation", 1, "int", 130),
    Fault("forward", 3, "twice", 143),
    Fault("forward", 3, "raise", 1),
    Fault("after model.safetensors", 2, "raise", 2),
    Fault("forward", 3, "nan", 2),
    Fault("after model.safetensors", 2, "full", 2),
]


ON_DISK: dict[str, Callable[[Path], object]] = {
    **{f"flipped byte in {name}": (lambda at, name=name: flip(at / name)) for name in (FILES[0], FILES[3])},
    "model.safetensors cut": lambda at: (at / FILES[0]).write_bytes((at / FILES[0]).read_bytes()[:-1]),
    "optimizer.safetensors emptied": lambda at: (at / FILES[1]).write_bytes(b""),
    "random.safetensors missing": lambda at: (at / FILES[2]).unlink(),
    "emptied folder": lambda at: (shutil.rmtree(at), at.mkdir()),
}


class Tally:
    """Counts, and every way in which something was not as it must be."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.faults = self.kills = self.steps = 0

    def done(self, what: str, *, ok: bool, killed: bool = False, said: str = "") -> None:
        self.faults, self.kills = self.faults + 1, self.kills + killed
        print(what if ok else f"{what}   WRONG\n{said[-3000:]}", flush=True)
        self.wrong += [] if ok else [what]

    def compared(self, name: str, calm: Path, out: Path, *, steps: int) -> None:
        """The end: everything of the two runs, bit for bit."""
        found = differences(calm, out, step=steps)
        trained = [record["step"] for record in records(out) if "objective" in record]
        lost = sorted(set(range(steps)) ^ set(trained))
        self.steps += steps
        self.wrong += [f"{name}: {what}" for what in (*found, *(f"step {step} lost" for step in lost))]
        hashes = [model_hash(folder)[:16] for folder in (calm, out)]
        print(
            f"{name}: undisturbed model {hashes[0]}, disturbed {hashes[1]}; differences: {found or 'none'}", flush=True
        )


def model_hash(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def arguments(name: str, hub: Path, out: Path, *more: str) -> list[str]:
    return [*overrides_for(name, hub), "save_every_n_steps=1", "keep_checkpoints=3", *more, f"output_dir={out}"]


def forked(act: Callable[[], object], said: Path) -> int:
    """Do it in a process of its own; the exit code, negative for a signal. What it says goes to a file.

    Forked from this process, which has everything imported and nothing started, it begins ten times as fast as a new
    one.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(said.parent)
            with said.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            act()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def broken_run(name: str, fault: Fault, words: list[str], cwd: Path) -> tuple[int, str]:
    """A recipe with a fault in it: its exit code and what it said."""
    said = cwd / "said.txt"
    code = forked(lambda: faulty(name, fault.point, str(fault.count), fault.how, *words), said)
    return code, said.read_text(errors="replace")


def finish(name: str, words: list[str], cwd: Path) -> str:
    """`tune run` to its end."""
    return must(tune(name, "--config", f"{name}/quickstart", *words, cwd=cwd, timeout=1800))


def last_saved(out: Path) -> int:
    return max(saved_steps(out), default=0)


def whole_list(name: str, hub: Path, work: Path, tally: Tally) -> None:
    """Every fault of the list in turn, in one run."""
    more = [f"epochs={EPOCHS}"]
    finish(name, arguments(name, hub, work / "calm", *more), work)
    out = work / "out"
    words = arguments(name, hub, out, *more)
    for fault in IN_A_RUN:
        before = last_saved(out)
        code, said = broken_run(name, fault, words, work)
        ok = code == fault.code and find_newest(out / "checkpoints").damaged == () and last_saved(out) >= before
        what = f"{name}: {fault.how} {fault.point}: exit {code}, steps on disk {before} -> {last_saved(out)}"
        tally.done(what, ok=ok, killed=fault.code < 0, said=said)
    for what, harm in ON_DISK.items():
        newest = checkpoint(out, last_saved(out))
        harm(newest)
        twice = Fault("before prune", 2, "term", 143)  # the step of the damaged one again, and one more
        code, said = broken_run(name, twice, words, work)
        ok = code == twice.code and f"skipped {newest}: " in said and not damage(newest)
        tally.done(f"{name}: {what}: exit {code}, left out, made again", ok=ok, said=said)
    refused(name, words, work, tally)
    finish(name, words, work)
    tally.compared(name, work / "calm", out, steps=EPOCHS * PER_EPOCH)


def refused(name: str, words: list[str], work: Path, tally: Tally) -> None:
    """What ends in one sentence and touches nothing."""
    lock(work / "out")
    second = tune(name, "--config", f"{name}/quickstart", *words, cwd=work)
    release()
    other = tune(name, "--config", f"{name}/quickstart", *words, "optimizer.lr=0.5", cwd=work)
    for what, ended, said in (
        ("a second process", second, "is in use by another process"),
        ("another config", other, "optimizer.lr was"),
    ):
        tally.done(f"{name}: {what}: exit {ended.returncode}", ok=ended.returncode == 2 and said in ended.stderr)


def killed_at_random(kills: int, seed: int, hub: Path, work: Path, tally: Tally) -> None:
    """SIGKILL at random moments of a real `tune run`: a third while it starts, the others while it trains and saves."""
    chance, epochs = random.Random(seed), 2 * kills
    total = PER_EPOCH * epochs
    longer = [f"epochs={epochs}", "evaluation=null", "dataset_val=null"]
    began = time.monotonic()
    finish("bt_sft", arguments("bt_sft", hub, work / "calm", *longer), work)
    print(f"bt_sft: undisturbed {total} steps in {time.monotonic() - began:.0f} s", flush=True)
    out = work / "out"
    words = ["--config", "bt_sft/quickstart", *arguments("bt_sft", hub, out, *longer)]
    for number in range(1, kills + 1):
        before = last_saved(out)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([TUNE, "run", "bt_sft", *words], cwd=work, env=environment(), **quiet)
        trains, started = chance.random() > 1 / 3, time.monotonic()
        moment = math.inf if trains else started + chance.uniform(0, 8)  # on a fast machine it trains before that
        while process.poll() is None and last_saved(out) == before and time.monotonic() < moment:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1) if trains else 0)
        process.kill()
        code = process.wait()
        newest = find_newest(out / "checkpoints") if saved_steps(out) else None
        ok = code == -signal.SIGKILL and (newest is None or newest.damaged == ()) and last_saved(out) >= before
        doing = "trains" if last_saved(out) > before else "starts"
        what = f"bt_sft: random kill {number} while it {doing}: {last_saved(out)} of {total} steps on disk"
        tally.done(what, ok=ok, killed=True)
    finish("bt_sft", words[2:], work)
    tally.compared("bt_sft", work / "calm", out, steps=total)


def fuzzed(share: float, seed: int, run: Path, work: Path, tally: Tally) -> None:
    """Broken files under every command: a sentence and exit 2, or exit 0; never a traceback, never a hang."""
    chance, fuzz, began = random.Random(seed), Fuzz(run, work, seed=seed), time.monotonic()
    tried = [case for case in cases(run) if chance.random() < share]
    wrong = [(case, said) for case in tried if (said := fuzz.try_one(case)) is not None]
    for case, said in wrong:
        tally.done(f"{case}", ok=False, said=said)
    print(f"{len(tried)} broken files read by commands in {(time.monotonic() - began) / 60:.0f} minutes", flush=True)
    tally.faults += len(tried) - len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fuzz", type=float, default=0.5, help="share of all broken files that is tried")
    parser.add_argument("--recipes", nargs="*", default=training_recipes())
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a process forked from one that has OpenMP threads waits for them for ever
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        hub = Path(folder) / "hub"
        write_tiny_checkpoint(hub / "model")
        write_tiny_checkpoint(hub / "teacher", seed=1)
        for name in chosen.recipes:
            work = Path(folder) / name
            work.mkdir()
            if name == "rft":
                assert forked(lambda: score(hub), work / "said.txt") == 0, (work / "said.txt").read_text()
            whole_list(name, hub, work, tally)
        if chosen.kills:
            work = Path(folder) / "random"
            work.mkdir()
            killed_at_random(chosen.kills, chosen.seed, hub, work, tally)
        for name in chosen.recipes if chosen.fuzz else ():
            fuzzed(chosen.fuzz / len(chosen.recipes), chosen.seed, Path(folder) / name / "calm", Path(folder), tally)
    print(f"{tally.faults} faults, {tally.kills} of them SIGKILL, in {(time.monotonic() - began) / 60:.0f} minutes")
    print(f"{tally.steps} steps compared with undisturbed runs; {len(tally.wrong)} things differ {tally.wrong or ''}")
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    main()
