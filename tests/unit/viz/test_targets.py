"""The picture of all induced targets."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cot_components import losses
from cot_components.viz.targets import every_preset, plot_targets

LOGITS, TEACHER = [2.0, 1.0, 0.5, -1.0], [0.5, 2.5, 0.0, -0.5]


def test_every_preset_of_the_package_has_its_panel_and_bars_of_the_right_height(tmp_path: Path) -> None:
    path = tmp_path / "targets.png"
    open_before = plt.get_fignums()
    figure = plot_targets(LOGITS, 1, TEACHER, tokens=["so", "thus", "hence", "but"], path=path)
    assert path.stat().st_size > 10_000
    shown = {loss.name for loss in every_preset().values()}
    assert shown == {name for name in losses.__all__ if hasattr(getattr(losses, name), "__wrapped__")}
    heights = {
        axis.get_title(): [bar.get_height() for bar in axis.patches[4:]] for axis in figure.axes if axis.get_visible()
    }
    assert len(heights) == len(every_preset())
    np.testing.assert_allclose(heights["sft"], [0, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(heights["target_sft 0.5"], [0.246132, 0.630011, 0.090547, 0.033310], atol=2e-6)
    dots = {axis.get_title() for axis in figure.axes if len(axis.lines) == 2}
    assert dots == {name for name, loss in every_preset().items() if loss.needs_reference}
    assert plt.get_fignums() == open_before


def test_a_choice_of_presets_and_no_names() -> None:
    figure = plot_targets(LOGITS, 0, TEACHER, presets={"dft": losses.dft(), "gem": losses.gem()})
    assert [axis.get_title() for axis in figure.axes] == ["dft", "gem"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "3"]
