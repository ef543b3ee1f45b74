"""Which rows to train on: pure functions `Rows -> Selection`, for the key `dataset.select`."""

from cot_components.selectors.at_random import AtRandom
from cot_components.selectors.band import PerplexityBand
from cot_components.selectors.grape import GRAPE
from cot_components.selectors.poft import PoFT
from cot_components.selectors.qtuning import QTuning

__all__ = ["GRAPE", "AtRandom", "PerplexityBand", "PoFT", "QTuning"]
