"""The layout of a run's folder; all other modules take the names from here."""

CONFIG, VERSIONS, LOG, LOCK = "config.yaml", "versions.json", "log.jsonl", ".lock"
CHECKPOINTS, EVALUATIONS, EVALUATION = "checkpoints", "evaluations", "evaluation.json"
FINISHED, MODEL, ADAPTER = "finished.json", "model", "adapter"
TOKENS, CURVES, REPORT = "tokens.html", "curves.png", "report.html"
CLASSES, COMPARISON, COMPARISON_PAGE = "classes.json", "comparison.png", "comparison.html"

FOLDERS = (CHECKPOINTS, EVALUATIONS, MODEL, ADAPTER)
FILES = (LOG, CONFIG, VERSIONS, FINISHED, TOKENS, CURVES, REPORT)
"""What a training run makes; `EVALUATION` is what `cot_eval` leaves, `CLASSES` what `shad` does, `COMPARISON` and
`COMPARISON_PAGE` what `cot compare` does."""
