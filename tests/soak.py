"""Kill a real `tune run` again and again and look whether anything was lost: `make soak`, or

    PYTHONPATH=tests:tests/faults python tests/soak.py --kills 30 --seed 0

Every training recipe is killed at each stage of a save; `bt_sft` also at random moments, until it is done. Every time
the same command goes on. In the end weights, optimizer, generators, export and log must be those of a run that nothing
disturbed. Prints one line per kill and the counts; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import TUNE, must, tune
from commands import run as command
from contract import differences, overrides_for, saved_steps, score, training_recipes

from cot_components.models.tiny import write_tiny_checkpoint
from cot_components.training.checkpoint import find_newest

STAGES = ["after model.safetensors", "after optimizer.safetensors", "before manifest", "before rename", "before prune"]
KILLED = Path(__file__).parent / "faults" / "killed.py"


def arguments(name: str, hub: Path, out: Path, *more: str) -> list[str]:
    saving = ["save_every_n_steps=1", "keep_checkpoints=3"]
    return [*overrides_for(name, hub), *saving, *more, f"output_dir={out}"]


def finish(name: str, words: list[str], cwd: Path) -> str:
    """`tune run` to its end."""
    return must(tune(name, "--config", f"{name}/quickstart", *words, cwd=cwd, timeout=1800))


def killed_at_stages(name: str, hub: Path, work: Path) -> tuple[int, list[str]]:
    """One kill at every stage of a save, each resumed by the next start."""
    finish(name, arguments(name, hub, work / "calm"), work)
    words = arguments(name, hub, work / "out")
    for number, stage in enumerate(STAGES, start=1):
        died = command(sys.executable, "-W", "ignore", KILLED, name, stage, "2", *words, cwd=work, timeout=1800)
        newest = find_newest(work / "out" / "checkpoints")
        print(f"{name}: kill {number} {stage}: exit {died.returncode}, on disk {saved_steps(work / 'out')}", flush=True)
        if died.returncode != -9 or newest.damaged:
            return number, [f"exit {died.returncode}", *(reason for _, reason in newest.damaged)]
    finish(name, words, work)
    return len(STAGES), differences(work / "calm", work / "out")


def killed_at_random(kills: int, seed: int, hub: Path, work: Path) -> tuple[int, list[str]]:
    """SIGKILL at random moments of a longer run, start-up included, until so many were survived."""
    chance, epochs = random.Random(seed), 40 * kills
    total = 6 * epochs
    longer = [f"epochs={epochs}", "evaluation=null", "dataset_val=null"]
    finish("bt_sft", arguments("bt_sft", hub, work / "calm", *longer), work)
    words = arguments("bt_sft", hub, work / "out", *longer)
    started = time.monotonic()
    subprocess.run([TUNE, "run", "bt_sft", "--help"], capture_output=True, check=False)
    unit = time.monotonic() - started
    for number in range(1, kills + 1):
        process = subprocess.Popen(
            [TUNE, "run", "bt_sft", "--config", "bt_sft/quickstart", *words],
            cwd=work,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(chance.uniform(0.5, 4.0) * unit)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        newest = find_newest(work / "out" / "checkpoints")
        done = saved_steps(work / "out")[-1:] or [0]
        print(f"bt_sft: random kill {number}: exit {code}, {done[0]} of {total} steps on disk", flush=True)
        if newest.damaged:
            return number, [reason for _, reason in newest.damaged]
    finish("bt_sft", words, work)
    return kills, differences(work / "calm", work / "out", step=total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", nargs="*", default=training_recipes())
    chosen = parser.parse_args()
    kills, lost = 0, []
    with tempfile.TemporaryDirectory() as folder:
        hub = Path(folder) / "hub"
        write_tiny_checkpoint(hub / "model")
        write_tiny_checkpoint(hub / "teacher", seed=1)
        for name in chosen.recipes:
            if name == "rft":
                score(hub)
            work = Path(folder) / name
            work.mkdir()
            survived, found = killed_at_stages(name, hub, work)
            kills, lost = kills + survived, lost + found
            print(f"{name}: {survived} kills in saves, differences {found or 'none'}", flush=True)
        if chosen.kills:
            work = Path(folder) / "random"
            work.mkdir()
            survived, found = killed_at_random(chosen.kills, chosen.seed, hub, work)
            kills, lost = kills + survived, lost + found
            print(f"bt_sft: {survived} random kills, differences {found or 'none'}", flush=True)
    print(f"{kills} kills survived; {len(lost)} things differ from undisturbed runs")
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
