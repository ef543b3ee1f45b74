"""Data set components for `dataset` in a config: traces from any source, encoded once, transformed on every use."""

from cot_components.data.generated.dialogues import agent_truth
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.text.icot_text import ICoTFormat
from cot_components.datasets.icot import icot_dataset, multiplication_dataset
from cot_components.datasets.reasoning import build_selectors, build_transforms, chat_format, reasoning_dataset

__all__ = [
    "ICoTFormat",
    "ReasoningDataset",
    "agent_truth",
    "build_selectors",
    "build_transforms",
    "chat_format",
    "icot_dataset",
    "multiplication_dataset",
    "reasoning_dataset",
]
