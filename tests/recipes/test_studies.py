"""The study that waits for a GPU, at a size a CPU can: the mixture is learnt, a cell adapts it, the tables are made."""

import json
import sys

from commands import ROOT, must, run

from cot_components.models.tiny import write_tiny_checkpoint

SCRIPT = """
from dataclasses import replace

from experiments import blur_large as large
from experiments import runner

def main():
    large.SIZE[:] = ["model.num_layers=1"]
    large.MIXTURE += ["dataset.source.tasks.max_rows=48", "dataset.source.products.max_rows=16", "epochs=1"]
    few = ["dataset.max_rows=32", "dataset_val.max_rows=8", "evaluation.max_rows=4", "epochs=1"]
    large.SETTINGS = {name: (traces, few) for name, (traces, _) in large.SETTINGS.items()}
    study = replace(large.STUDY, arms=("sft", "span 0.5"), settings=("slips, 640 rows", "products of three digits"))
    runner.RESULTS = runner.Path("results")
    runner.run(study, seeds=1)
    print(runner.table(study, runner.read_cells(study)))

if __name__ == "__main__":  # child processes import this file
    main()
"""


def test_blur_large(tmp_path) -> None:
    write_tiny_checkpoint(tmp_path / "runs" / "tiny_llama")
    (tmp_path / "study.py").write_text(SCRIPT)
    told = must(run(sys.executable, "study.py", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}))
    cells = {path.name: json.loads(path.read_text()) for path in (tmp_path / "results" / "blur_large").glob("*.json")}
    assert sorted(cells) == [
        f"{setting}__{arm}__0.json"
        for setting in ("products_of_three_digits", "slips,_640_rows")
        for arm in ("sft", "span_0.5")
    ]
    assert all("answer_accuracy" in cell["figures"] and cell["figures"]["val_loss"] > 0 for cell in cells.values())
    assert ["wordings" in cells[name]["figures"] for name in sorted(cells)] == [False, False, True, True]
    assert cells["slips,_640_rows__sft__0.json"]["figures"] != cells["slips,_640_rows__span_0.5__0.json"]["figures"]
    assert "products of three digits: held-out answers correct" in told
    assert len(list((tmp_path / "runs" / "experiments" / "starts").iterdir())) == 1
