"""Answers to "present?" and "counted?": pure functions `(Flat, Clock) -> Flat`, applied by the data loader."""

from cot_components.transforms.blur import Blur, Released
from cot_components.transforms.cap import Cap
from cot_components.transforms.corrupt import Corrupt
from cot_components.transforms.highlight import ByPattern, Highlight
from cot_components.transforms.prune import Prune
from cot_components.transforms.qtuning import QTuning
from cot_components.transforms.remove import Remove
from cot_components.transforms.threshold import Threshold
from cot_components.transforms.truncate import Truncate
from cot_components.transforms.weigh import ByGroup, ByRole, TopGap

__all__ = [
    "Blur",
    "ByGroup",
    "ByPattern",
    "ByRole",
    "Cap",
    "Corrupt",
    "Highlight",
    "Prune",
    "QTuning",
    "Released",
    "Remove",
    "Threshold",
    "TopGap",
    "Truncate",
]
