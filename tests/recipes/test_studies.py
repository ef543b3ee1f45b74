"""Studies that wait for a machine, at a size a CPU can: starts are trained, a cell is run, the tables are made."""

import json
import sys

from commands import ROOT, must, run

from cot_components.models.tiny import write_tiny_checkpoint

SCRIPT = """
from dataclasses import replace

from experiments import blur_large as large
from experiments import runner, show, study

def main():
    large.SIZE[:] = ["model.num_layers=1"]
    large.MIXTURE += ["dataset.source.tasks.max_rows=48", "dataset.source.products.max_rows=16", "epochs=1"]
    few = ["dataset.max_rows=32", "dataset_val.max_rows=8", "evaluation.max_rows=4", "epochs=1"]
    large.SETTINGS = {name: (traces, few) for name, (traces, _) in large.SETTINGS.items()}
    small = replace(large.STUDY, arms=("sft", "span 0.5"), settings=("slips, 640 rows", "products of three digits"))
    study.RESULTS = study.Path("results")
    runner.run(small, seeds=1)
    print(show.table(small, study.read_cells(small)))

if __name__ == "__main__":  # child processes import this file
    main()
"""


def test_blur_large(tmp_path) -> None:
    write_tiny_checkpoint(tmp_path / "runs" / "tiny_llama")
    (tmp_path / "study.py").write_text(SCRIPT)
    told = must(run(sys.executable, "study.py", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}))
    lines = (tmp_path / "results" / "blur_large.jsonl").read_text().splitlines()
    cells = {(cell["setting"], cell["arm"], cell["seed"]): cell["figures"] for cell in map(json.loads, lines)}
    products, slips = "products of three digits", "slips, 640 rows"
    assert sorted(cells) == [(setting, arm, 0) for setting in (products, slips) for arm in ("sft", "span 0.5")]
    assert all("answer_accuracy" in figures and figures["val_loss"] > 0 for figures in cells.values())
    assert ["wordings" in cells[key] for key in sorted(cells)] == [False, False, True, True]
    assert cells[slips, "sft", 0] != cells[slips, "span 0.5", 0]
    assert "products of three digits: held-out answers correct" in told
    assert len(list((tmp_path / "runs" / "experiments" / "starts").iterdir())) == 1


REAL = """
from dataclasses import replace

from experiments import blur_real, highlight_real, real, runner, screening, study, targets_real

def main():
    study.RESULTS = study.Path("results")
    real.cached_smollm2 = lambda: study.Path("runs/tiny_llama")
    real.CPU = screening.CPU = targets_real.CPU = highlight_real.CPU = blur_real.CPU = real.Size(2, 4)
    runner.run(screening.STUDY)
    try:
        runner.run(targets_real.STUDY, seeds=1)
    except Exception as error:
        print(f"refused: {error}")
    real.SIGNAL = (0.0, 1.0)
    for one, arms in ((targets_real, ["distill"]), (highlight_real, ["sft", "rft tau 3"]), (blur_real, ["half batch"])):
        few = replace(one.STUDY, arms=arms, settings=["2"] if one is highlight_real else one.STUDY.settings)
        runner.run(few, seeds=1)

if __name__ == "__main__":  # child processes import this file
    main()
"""


def test_studies_of_smollm2_on_a_tiny_model(tmp_path) -> None:
    write_tiny_checkpoint(tmp_path / "runs" / "tiny_llama")
    (tmp_path / "study.py").write_text(REAL)
    told = must(run(sys.executable, "study.py", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=900))
    assert "refused: no signal: 0 % of problems right before training" in told
    found = {path.stem: path.read_text().splitlines() for path in (tmp_path / "results").glob("*.jsonl")}
    assert {name: len(lines) for name, lines in found.items()} == {
        "screening": 4,
        "targets_real": 1,
        "highlight_real": 2,
        "blur_real": 1,
    }
    plain, highlighted = (json.loads(line)["figures"] for line in found["highlight_real"])
    assert plain["loss_reasoning"] != highlighted["loss_reasoning"] > 0 and plain["loss_boilerplate"] > 0
    starts = {path.name for path in (tmp_path / "runs" / "experiments" / "starts").iterdir()}
    assert {"smollm2_taught_0", "smollm2_caller_0", "smollm2_good_0", "smollm2_classes_14"} <= starts
