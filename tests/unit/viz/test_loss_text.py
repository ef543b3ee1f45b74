"""Texts tinted by what a model found unlikely."""

import re

import numpy as np
import pytest

from cot_components.errors import UserError
from cot_components.viz.loss_text import LossText


def decode(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def spans(html):
    """Opacity (0 to 255), title and text of every span."""
    found = re.findall(r'<span style="background:#\w{6}(\w\w)" title="([^"]+)">([^<]*)</span>', html)
    return [(int(opacity, 16), title, text) for opacity, title, text in found]


def test_the_less_likely_the_darker():
    ids, losses = list(b"abc"), [0.0, np.log(2), 9.0]
    (sure, _, first), (even, title, _), (surprised, *_) = spans(
        LossText.of_tokens(ids, {"x": losses}, decode)._repr_html_()
    )
    assert first == "a" and sure == 0 < even < surprised <= 255
    assert even / surprised == pytest.approx(0.5, abs=0.01)
    assert title == "0.69 nats, probability 50.0%"


def test_one_text_for_each_model_with_its_sum():
    html = LossText.of_tokens([97, 98], {"before": [1.0, 2.0], "after": [float("nan"), 0.5]}, decode)._repr_html_()
    assert "before</b>: 3.0 nats" in html and "after</b>: 0.5 nats" in html and len(spans(html)) == 4


def test_a_character_of_several_tokens_has_their_loss():
    ids = list("\u00e9".encode())
    ((_, title, text),) = spans(LossText.of_tokens(ids, {"x": [1.0, 0.5]}, decode)._repr_html_())
    assert text == "\u00e9" and title.startswith("1.50 nats")


def test_nothing_in_a_text_acts():
    html = LossText.of_tokens(list(b"<b>\x1b"), {"<i>": [0.0] * 4}, decode)._repr_html_()
    assert "<b>\u241b" not in html and "<i>" not in html and "&lt;" in html and "\x1b" not in html


def test_pieces_with_losses_of_their_own():
    """As an evaluation saves them; context has none and no tint."""
    html = LossText(["ab", "c"], {"x": [None, 0.5]})._repr_html_()
    assert [(opacity > 0, text) for opacity, _, text in spans(html)] == [(False, "ab"), (True, "c")]
    assert "x</b>: 0.5 nats" in html


def test_losses_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="x has 1 losses for 2 tokens"):
        LossText.of_tokens([97, 98], {"x": [1.0]}, decode)
    with pytest.raises(UserError, match="x has 1 losses for 2 pieces"):
        LossText(["a", "b"], {"x": [1.0]})
