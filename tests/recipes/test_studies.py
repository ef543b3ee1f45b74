"""The study that waits for a GPU, at a size a CPU can: the mixture is learnt, a cell adapts it, the tables are made."""

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
