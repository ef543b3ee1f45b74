"""What a YAML may name: short paths that stay when files move, and nothing else in what ships."""

import re

import pytest
from commands import ROOT

from cot_components.config.components import locate, only_known

STABLE = {
    "curriculum": "Anneal Released Stepwise",
    "datasets": "ICoTFormat agent_truth icot_dataset multiplication_dataset reasoning_dataset",
    "evaluation": "AnswerEvaluation",
    "losses": "GroupShares GroupSoftmax asft beyond_log chord_phi dft distill eaft gem hybrid_distill label_smoothing "
    "otr profit psft sft sft_kl target_sft",
    "models": "AdaptersOff FrozenModel TopKFile compact_tokenizer from_folder gpt2 gpt2_large gpt2_medium gpt2_small "
    "gpt2_tokenizer gpt2_xl hf_tokenizer with_weights",
    "selectors": "AtRandom GRAPE PerplexityBand PoFT QTuning",
    "trainable": "CoFiTune Half Only",
    "transforms": "Blur ByGroup ByPattern ByRole Cap Corrupt Highlight Prune QTuning Released Threshold TopGap "
    "Truncate",
}
PATHS = {f"cot_components.{room}.{name}" for room, names in STABLE.items() for name in names.split()}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_short_path_names_a_component_that_every_command_knows(path):
    with only_known():
        assert callable(locate(path, "x"))


def test_all_that_ships_uses_them():
    """Configs, pages and notebooks; `NAME.` alone is a family of them, as in a table."""
    files = [
        *ROOT.glob("configs/**/*.yaml"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("notebooks/0*.py"),
        ROOT / "README.md",
    ]
    spelled = re.compile(r"(?:_component_\"?[:=]\s*\"?|\w+=)(cot_components\.[\w.]+)")
    named = {path: set(spelled.findall(path.read_text())) for path in files}
    assert sum(map(len, named.values())) > 150
    assert not {(str(path), name) for path, names in named.items() for name in names - PATHS}
