"""Curves: what is drawn, and that it can be read."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_components.errors import UserError
from cot_components.viz.curves import draw_panels, plot_run, run_names, spread
from cot_components.viz.panels import (
    accuracy_by_removal,
    compare_panels,
    internalisation_panels,
    panels_of,
    run_panels,
    running_median,
)


def log_of(seed=0, *, stages=False, evaluations=True):
    """Records of 60 steps whose losses fall far."""
    noise, records = np.random.default_rng(seed).normal(0, 0.02, 60), []
    for step in range(60):
        decay = 5 * math.exp(-step / 15)
        record = {"step": step, "loss_thought": 0.4 + decay + noise[step], "loss_answer": 0.05 + decay}
        record |= {"loss_blurred": 0.5 + decay} if step % 10 == 9 else {}
        records.append(record | ({"stage": step // 20, "removed": 8 * (step // 20)} if stages else {}))
        if evaluations and step % 20 == 0:
            rates = {"answer_accuracy": step / 60, "format_rate": 1.0}
            records.append({"step": step, **rates, "thought_tokens": 30, "val_loss": 1.0})
    return records


def write_run(folder, records=None):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records or log_of())
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder


def curriculum(removed):
    """Records of a run that evaluates once for each amount removed: 0 %, 10 %, 20 % ... right."""
    return [
        record
        for index, amount in enumerate(removed)
        for record in (
            {"step": 10 * index, "loss_answer": 1.0 / (index + 1), "removed": amount},
            {"step": 10 * index + 9, "removed": amount, "answer_accuracy": 0.1 * index},
        )
    ]


def titles(*logs):
    return [panel.title for panel in panels_of(logs)]


def drawn(records):
    return draw_panels(panels_of([records]), [("a", "#000000")])


def test_one_run_has_a_panel_per_kind_of_quantity():
    assert titles(log_of()) == ["Loss", "Answers", "Thought length, tokens"]
    assert [line.label for line in panels_of([log_of()])[0].lines] == ["thought", "answer", "blurred", "validation"]
    assert titles(log_of(stages=True, evaluations=False)) == ["Loss", "Removed tokens"]
    assert titles([{"step": i, "stage": i // 2} for i in range(6)]) == ["Stage"], "stages without removal"


def test_several_runs_have_a_panel_per_quantity():
    logs = [log_of(seed, stages=seed == 2) for seed in range(3)]
    assert titles(*logs)[:4] == ["Loss on thoughts", "Loss on answers", "Validation loss", "Answers correct"]
    assert [len(panel.lines) for panel in panels_of(logs)] == [3, 3, 3, 3, 3, 3, 1]
    assert len({line.colour for line in panels_of(logs)[0].lines}) == 3


def test_accuracies_have_the_interval_of_their_step():
    intervals = {0: (0.0, 0.1), 40: (0.5, 0.9)}  # an evaluation of step 20 was lost
    (line,) = [line for panel in run_panels(log_of(), intervals) for line in panel.lines if line.label == "correct"]
    np.testing.assert_array_equal(line.between, [[0.0, 0.1], [np.nan, np.nan], [0.5, 0.9]])
    first, other = compare_panels([log_of(), log_of()], [intervals, None])[3].lines
    np.testing.assert_array_equal(first.between, line.between)
    assert other.between is None and all(line.between is None for p in panels_of([log_of()]) for line in p.lines)


def test_a_curriculum_is_accuracy_by_removal():
    """By hand: a line through the last evaluation of each stage and the first of the last; its end; a still run."""
    moving, still = curriculum([0.0, 0.0, 1.02, 2.0, 2.0]), curriculum([2.0, 2.0])
    removed, accuracy, steps = accuracy_by_removal(moving)
    assert removed.tolist() == [0, 0, 1.02, 2, 2] and steps.tolist() == [9, 19, 29, 39, 49]
    assert accuracy == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    panel, losses = internalisation_panels([moving, still])
    shown = [(line.marks, line.steps.tolist(), line.values.round(6).tolist()) for line in panel.lines]
    assert shown == [
        ("ring", [0, 2], [0, 0.4]),
        ("", [0, 1, 2], [0.1, 0.2, 0.3]),
        ("", [2, 2], [0.3, 0.4]),
        ("square", [2], [0.4]),
        ("diamond", [2], [0.1]),
    ]
    assert [line.values.tolist() for line in losses.lines] == [[1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], [1, 1 / 2]]
    assert titles(moving)[-1] == titles(moving, still)[-1] == panel.title not in titles(still, still)
    words = [text for axes in draw_panels([panel], []).axes for text in axes.get_xlabel().split("\n")]
    assert "tokens" in words[0] and "diamond" in words[1]


@pytest.mark.parametrize("number", [1, 9])
def test_a_picture_is_written(tmp_path, number):
    runs = [write_run(tmp_path / f"run_{i}", log_of(i)) for i in range(number)]
    path = plot_run(runs if number > 1 else runs[0], tmp_path / "deep" / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_labels_do_not_touch_and_stay_in_the_picture():
    figure = drawn(log_of())
    figure.canvas.draw()
    renderer, checked = figure.canvas.get_renderer(), 0
    for axes in figure.axes:
        boxes = sorted((text.get_window_extent(renderer) for text in axes.texts), key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0 + 3
            checked += 1
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert checked >= 4


def test_losses_that_fall_far_are_drawn_on_a_logarithmic_scale():
    assert [axes.get_yscale() for axes in drawn(log_of()).axes] == ["log", "linear", "linear"]
    for last in (1.55, 0.0):  # not far; to nothing
        records = [{"step": i, "loss_answer": 2.0 - i / 9 * (2.0 - last)} for i in range(10)]
        assert drawn(records).axes[0].get_yscale() == "linear"


def test_gaps_and_single_points_can_be_drawn():
    first = {"step": 0, "loss_thought": "nan", "loss_answer": 1.0}
    assert drawn([first, {"step": 1, "loss_thought": 2.0, "loss_answer": "inf"}]).axes
    assert titles([{"step": 0, "loss_thought": "nan"}]) == []


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    a, b = write_run(tmp_path / "x" / "seed_0"), write_run(tmp_path / "y" / "seed_0")
    assert "x/seed_0" in plot_run([a, b], tmp_path / "c.svg").read_text()
    assert run_names([a, b]) == ["x/seed_0", "y/seed_0"]
    assert run_names([a]) == ["seed_0"] and run_names([a, b.parent]) == ["seed_0", "y"]
    with pytest.raises(UserError, match="the same run twice"):
        plot_run([a, a], tmp_path / "c.png")


@pytest.mark.parametrize("name", ["new/c.xyz", "new/curves", "new/.png", "new/c."])
def test_a_picture_has_a_type(tmp_path, name):
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=rf"{name}: .*\.pdf, .*\.png, "):
        plot_run(run, tmp_path / name)
    assert not (tmp_path / "new").exists()
    assert plot_run(run, tmp_path / "new" / "c.SVG").read_text().startswith("<?xml")


def test_nothing_to_plot_is_one_sentence(tmp_path):
    for runs, said in (([], "no run to plot"), (tmp_path, "no such log")):
        with pytest.raises(UserError, match=said):
            plot_run(runs, tmp_path / "c.png")
    with pytest.raises(UserError, match="nothing to plot yet"):
        plot_run(write_run(tmp_path, [{"step": 0, "lr": 0.1}]), tmp_path / "c.png")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(0.1, 20))
def test_spread_keeps_order_and_distance_and_moves_nothing_that_is_apart(positions, spacing):
    placed = spread(positions, spacing)
    assert all(np.diff(np.array(placed)[np.argsort(positions, kind="stable")]) >= spacing - 1e-6)
    if len(positions) > 1 and np.diff(np.sort(positions)).min() >= spacing:
        assert np.allclose(placed, positions)
    assert np.isclose(np.mean(placed), np.mean(positions), atol=1e-6)


def test_the_running_median_against_a_slow_one():
    values = np.random.default_rng(0).normal(size=200)
    values[[3, 50, 51, 199]] = np.nan
    slow = [np.nanmedian(values[max(0, i - 4) : i + 5]) if np.isfinite(values[i]) else np.nan for i in range(200)]
    assert np.array_equal(running_median(values), slow, equal_nan=True)
    assert np.isnan(running_median(values[:5])[3])
