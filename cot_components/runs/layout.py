"""The layout of a run's folder; all other modules take the names from here."""

CONFIG, VERSIONS, LOG, LOCK = "config.yaml", "versions.json", "log.jsonl", ".lock"
CHECKPOINTS, EVALUATIONS, EVALUATION = "checkpoints", "evaluations", "evaluation.json"
FINISHED, MODEL, ADAPTER = "finished.json", "model", "adapter"
TOKENS, CURVES, REPORT = "tokens.html", "curves.png", "report.html"
CLASSES, COMPARISON = "classes.json", "comparison.png"

FOLDERS = (CHECKPOINTS, EVALUATIONS, MODEL, ADAPTER)
FILES = (LOG, CONFIG, VERSIONS, FINISHED, TOKENS, CURVES, REPORT)
"""Files of a training run; `EVALUATION` is written by `cot_eval`, `CLASSES` by `shad`, `COMPARISON` by `cot
compare`."""
