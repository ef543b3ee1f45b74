"""Do the quickstarts end bit for bit as they did with four recipes? Runs them, or compares two folders of such runs.

    python docs/results/one_recipe.py run FOLDER     # with the `tune` and `cot` of the active environment, one thread
    python docs/results/one_recipe.py compare OLD NEW

`run` is for the recipe of today; for commit c7929e3 three recipes and configs had other names, given in `BEFORE`.

Compared are the SHA-256 of the exported weights, every evaluation, and every record of the log without seconds, rates
and waits.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

SHORT = ["epochs=1", "max_steps_per_epoch=50", "log_every_n_steps=1"]
SHORT += ["curriculum.partial=true", "evaluation.max_rows=20"]
STUDENT = ["epochs=1", "evaluate_before_training=false", "evaluate_every_n_steps=null"]
BASE = "checkpointer.checkpoint_dir=runs/rft_quickstart_base/model"
NO_TEACHER = ["~loss.eta", "reference=null"]
RUNS = {
    "bt_sft_quickstart": ["bt_sft", "bt_sft/quickstart"],
    "target_student": ["bt_sft", "bt_sft/quickstart", *STUDENT],
    "sft_baseline": ["target_sft", "target_sft/quickstart", "loss=cot_components.losses.sft", *NO_TEACHER],
    "dft_baseline": ["target_sft", "target_sft/quickstart", "loss=cot_components.losses.dft", *NO_TEACHER],
    "target_sft_quickstart": ["target_sft", "target_sft/quickstart"],
    "rft_quickstart_base": ["cot_sft", "cot_sft/agent_base"],
    "shad_quickstart": ["shad", "shad/quickstart", BASE],
    "rft_sft": ["cot_sft", "rft/quickstart", BASE, "loss.weight_rule=null"],
    "rft_quickstart": ["rft", "rft/quickstart", BASE],
    "cpu_3x3": ["icot_sft", "icot_sft/cpu_3x3", *SHORT],
    "scratch_2L4H_4x4": ["icot_sft", "icot_sft/scratch_2L4H_4x4", "device=cpu", "num_workers=0", *SHORT],
    "stock_bt_sft_tiny": ["full_finetune_single_device", "STOCK", "epochs=2", "max_steps_per_epoch=25"],
    "icot_sft_quickstart": ["icot_sft", "icot_sft/quickstart"],
}
WEIGHTS = ("model/*.safetensors", "epoch_1/*.safetensors", "scores/*.npy", "shuffled.safetensors")
BEFORE = {"rft_quickstart_base": "rft --config rft/quickstart_base", "rft_sft": "rft --config rft/quickstart"}
TIMED = ("tokens_per_second", "supervised_tokens_per_second", "loader_wait_fraction", "step_seconds")


def run(folder: Path) -> None:
    stock = Path(__file__).resolve().parents[2] / "configs" / "stock_torchtune" / "bt_sft_tiny.yaml"
    stock = Path(os.environ.get("STOCK", stock))
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(["cot", "tiny", "runs/tiny_llama"], cwd=folder, env=environment, check=True)
    for name, (recipe, config, *overrides) in RUNS.items():
        config = str(stock) if config == "STOCK" else config
        words = ["tune", "run", recipe, "--config", config, f"output_dir=runs/{name}", *overrides]
        with open(folder / f"{name}.txt", "w") as out:
            code = subprocess.run(words, cwd=folder, env=environment, stdout=out, stderr=out).returncode
        print(name, code, flush=True)


def end_of(folder: Path) -> dict[str, str]:
    """What a run ended with, by name: hashes of weights, texts of evaluations, records of the log."""
    found = {}
    weights = [p for pattern in WEIGHTS for p in folder.glob(pattern)]
    for path in sorted(weights):
        found[f"weights {path.relative_to(folder)}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.glob("evaluations/*.json")):
        found[f"evaluation {path.name}"] = path.read_text()
    log = folder / "log.jsonl"
    for number, line in enumerate(log.read_text().splitlines() if log.exists() else []):
        record = {k: v for k, v in json.loads(line).items() if k not in TIMED and not k.startswith("run_")}
        found[f"record {number}"] = json.dumps(record)
    for path in sorted(folder.glob("logs/*.txt")):
        lines = path.read_text().splitlines()
        found["torchtune's log"] = "\n".join(
            " ".join(w for w in line.split() if "per_second" not in w) for line in lines
        )
    return found


def compare(old: Path, new: Path) -> None:
    differing = 0
    for name in RUNS:
        before, after = end_of(old / "runs" / name), end_of(new / "runs" / name)
        kinds = {kind: sum(key.startswith(kind) for key in before) for kind in ("weights", "evaluation", "record")}
        wrong = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        differing += len(wrong) + (kinds["weights"] == 0)
        print(f"{name:<22} {kinds}  {'differs: ' + ', '.join(wrong[:5]) if wrong else 'equal'}")
    print(f"{differing} differences")


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(Path(sys.argv[2]))
    else:
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
