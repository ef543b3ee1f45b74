"""Curves: what is drawn, and that it can be read."""

import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cot_components.errors import UserError
from cot_components.runs.log import read_log
from cot_components.viz.curves import draw_panels, plot_run, run_names, spread
from cot_components.viz.panels import compare_panels, run_panels, running_median


def write_run(folder, *, steps=60, seed=0, stages=False, evaluations=True):
    noise = random.Random(seed)
    records = []
    for step in range(steps):
        decay = math.exp(-step / 15)
        record = {"step": step, "loss_thought": 0.4 + 5 * decay + noise.gauss(0, 0.02), "loss_answer": 0.05 + 5 * decay}
        if step % 10 == 9:
            record["loss_blurred"] = 0.5 + 5 * decay
        if stages:
            record |= {"stage": step // 20, "removed": 8 * (step // 20)}
        records.append(record)
        if evaluations and step % 20 == 0:
            rates = {"answer_accuracy": step / steps, "format_rate": 1.0}
            records.append({"step": step, **rates, "thought_tokens": 30, "val_loss": 1.0})
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return folder


def titles(panels):
    return [panel.title for panel in panels]


def test_one_run_has_a_panel_per_kind_of_quantity(tmp_path):
    panels = run_panels(read_log(write_run(tmp_path / "a")))
    assert titles(panels) == ["Loss", "Answers", "Thought length, tokens"]
    assert [line.label for line in panels[0].lines] == ["thought", "answer", "blurred", "validation"]
    with_stages = run_panels(read_log(write_run(tmp_path / "b", stages=True, evaluations=False)))
    assert titles(with_stages) == ["Loss", "Removed tokens"]


def test_stages_without_removal_have_their_panel():
    panels = run_panels([{"step": i, "stage": i // 2} for i in range(6)])
    assert titles(panels) == ["Stage"]


def test_several_runs_have_a_panel_per_quantity(tmp_path):
    logs = [read_log(write_run(tmp_path / name, stages=name == "c", seed=i)) for i, name in enumerate("abc")]
    panels = compare_panels(logs)
    assert titles(panels)[:3] == ["Loss on thoughts", "Loss on answers", "Answers correct"]
    assert [len(panel.lines) for panel in panels] == [3, 3, 3, 3, 3, 1]
    assert len({line.colour for line in panels[0].lines}) == 3


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_picture_is_written(tmp_path, number):
    runs = [write_run(tmp_path / f"run_{i}", seed=i) for i in range(number)]
    path = plot_run(runs if number > 1 else runs[0], tmp_path / "deep" / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_labels_do_not_touch_and_stay_in_the_picture(tmp_path):
    panels = run_panels(read_log(write_run(tmp_path / "a")))
    figure = draw_panels(panels, [("a", "#000000")])
    figure.canvas.draw()
    renderer, checked = figure.canvas.get_renderer(), 0
    for axes in figure.axes:
        boxes = sorted((text.get_window_extent(renderer) for text in axes.texts), key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 3
            checked += 1
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert isinstance(figure, Figure) and checked >= 4


def test_losses_that_fall_far_are_drawn_on_a_logarithmic_scale(tmp_path):
    figure = draw_panels(run_panels(read_log(write_run(tmp_path / "a"))), [("a", "#000000")])
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    flat = run_panels([{"step": i, "loss_answer": 2.0 - i / 20} for i in range(10)])
    zero = run_panels([{"step": i, "loss_answer": 1.0 - i / 9} for i in range(10)])
    for panels in (flat, zero):
        assert draw_panels(panels, [("a", "#000000")]).axes[0].get_yscale() == "linear"


def test_gaps_and_single_points_can_be_drawn(tmp_path):
    first = {"step": 0, "loss_thought": "nan", "loss_answer": 1.0}
    records = [first, {"step": 1, "loss_thought": 2.0, "loss_answer": "inf"}]
    assert draw_panels(run_panels(records), [("a", "#000000")]).axes
    assert run_panels([{"step": 0, "loss_thought": "nan"}]) == []


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    a, b = write_run(tmp_path / "x" / "seed_0"), write_run(tmp_path / "y" / "seed_0")
    assert plot_run([a, b], tmp_path / "c.png").exists() and run_names([a, b]) == ["x/seed_0", "y/seed_0"]
    assert run_names([a]) == ["seed_0"] and run_names([a, b.parent]) == ["seed_0", "y"]
    with pytest.raises(UserError, match="the same run twice"):
        plot_run([a, a], tmp_path / "c.png")


@pytest.mark.parametrize("name", ["new/c.xyz", "new/curves", "new/.png", "new/c."])
def test_a_picture_has_a_type(tmp_path, name):
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=rf"{name}: a picture's name must end in its type: .*\.pdf, .*\.png, "):
        plot_run(run, tmp_path / name)
    assert not (tmp_path / "new").exists()
    assert plot_run(run, tmp_path / "new" / "c.SVG").read_text().startswith("<?xml")


def test_nothing_to_plot_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no run to plot"):
        plot_run([], tmp_path / "c.png")
    with pytest.raises(UserError, match="no such log"):
        plot_run(tmp_path, tmp_path / "c.png")
    (tmp_path / "log.jsonl").write_text('{"step": 0, "lr": 0.1}\n')
    with pytest.raises(UserError, match="nothing to plot yet"):
        plot_run(tmp_path, tmp_path / "c.png")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(0.1, 20))
def test_spread_keeps_order_and_distance_and_moves_nothing_that_is_apart(positions, spacing):
    placed = spread(positions, spacing)
    order = np.argsort(positions, kind="stable")
    assert all(np.diff(np.array(placed)[order]) >= spacing - 1e-6)
    if len(positions) > 1 and np.diff(np.sort(positions)).min() >= spacing:
        assert np.allclose(placed, positions)
    assert np.isclose(np.mean(placed), np.mean(positions), atol=1e-6)


def test_the_running_median_against_a_slow_one():
    values = np.random.default_rng(0).normal(size=200)
    values[[3, 50, 51, 199]] = np.nan
    half, checked = 4, 0
    fast = running_median(values)
    for i in range(200):
        if np.isnan(values[i]):
            assert np.isnan(fast[i])
        else:
            assert fast[i] == np.nanmedian(values[max(0, i - half) : i + half + 1])
            checked += 1
    assert checked == 196
    assert running_median(values[:5]) is not None and np.isnan(running_median(values[:5])[3])
