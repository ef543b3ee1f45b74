"""Evaluation by answering questions: prompts, extraction and comparison of answers, statistics. Plain torch."""

from cot_components.evaluation.questions import AnswerEvaluation

__all__ = ["AnswerEvaluation"]
