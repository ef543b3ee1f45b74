"""What a model answers: questions, how answers are found and compared, and what they amount to. Plain torch."""

from cot_components.evaluation.questions import AnswerEvaluation

__all__ = ["AnswerEvaluation"]
