"""Evaluation by answering questions: prompts, extraction and comparison of answers, statistics. Plain torch."""

from cot_components.evaluation.compare import last_evaluation
from cot_components.evaluation.questions import AnswerEvaluation
from cot_components.evaluation.saved import read_evaluation
from cot_components.evaluation.table import samples_table, summary_table

__all__ = ["AnswerEvaluation", "last_evaluation", "read_evaluation", "samples_table", "summary_table"]
