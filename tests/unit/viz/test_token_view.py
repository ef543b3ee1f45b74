"""The token view as a page, a notebook fragment and terminal output."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from rows import byte_flat, decode_bytes, trace, without

from cot_components.clock import Clock
from cot_components.roles import IGNORE, Role
from cot_components.transforms.blur import Blur
from cot_components.viz.samples import PARTIAL, make_samples
from cot_components.viz.token_html import BLOCK_TOKENS, STRIP_CELLS
from cot_components.viz.token_view import TokenView

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(2)> &amp; \" ' ]]> <!-- \x1b[31m \u202e {{ %s"
FLAT = byte_flat(
    [
        trace("2+2?", "Two and two is four, I am sure.\nYes.", "4"),
        trace(HOSTILE, HOSTILE * 2, HOSTILE),
        trace("\u516d?", "\u516d\u5341 " * 10, "\u516d"),
    ],
    ids=[7, 9, 11],
)
BLURRED = [Blur(ratio=0.4, keep_first=0)(FLAT, Clock(epoch, 0)) for epoch in range(3)]


class Elements(HTMLParser):
    """Elements of a page with their text; void ones included."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.runs, self.texts = [], [], {}
        self._open, self.script = None, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if "data-p" in dict(attributes):
            self.runs.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self._open in ("s", "span") and self.runs:
            self.runs[-1][2] += data
        if self._open == "script":
            self.script.append(data)

    def handle_endtag(self, tag):
        self._open = None


def render(view, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(view)
    return console.file.getvalue()


def test_draws_stand_side_by_side_where_the_terminal_is_wide_enough():
    """Three strips of 60 cells and the gaps between them take 186; what is said is the same."""
    view = TokenView(BLURRED, decode_bytes)
    for width, heads in ((186, 1), (185, 3)):
        text = render(view, width=width)
        assert all(len(line) <= width for line in text.splitlines())
        lines = [line for line in text.splitlines() if line.startswith("row 7, ")]
        assert len(lines) == heads and sum(line.count("row 7, ") for line in lines) == 3
        assert text.count("supervised") == render(view).count("supervised")


def test_the_page_holds_every_token_of_every_draw():
    view = TokenView(BLURRED, decode_bytes)
    page = Elements(view.html())
    expected = [
        (("s" if run.state.value == "ignored" else "span"), run.text)
        for sample in make_samples(BLURRED, decode_bytes)
        for draw in sample.draws
        for run in draw.runs
    ]
    assert [(tag, text) for tag, _, text in page.runs] == expected
    assert len(expected) > 100


def test_titles_say_id_role_label_and_weight():
    page = Elements(TokenView(BLURRED, decode_bytes, max_rows=1).html())
    titles = [attributes["title"] for _, attributes, _ in page.runs]
    single = re.compile(r"id \d+, [a-z_]+( \d+)?, label (-100|\d+), weight 1")
    several = re.compile(r"ids [\d ]+( \.\.\.)?, [a-z_]+( \d+ to \d+)?, label (-100|itself), weight 1")
    assert all(single.fullmatch(title) or several.fullmatch(title) for title in titles)
    assert f"ids {' '.join(str(b) for b in b'2+2?')}, prompt, label -100, weight 1" in titles
    assert any(single.fullmatch(title) for title in titles)


def test_data_of_the_script_fits_the_text():
    """Lengths are in UTF-16 units and cover each run, so that the script cuts it where its tokens end."""
    smile = byte_flat([trace("?", "ok \U0001f642 \u516d", "4")])
    page = Elements(TokenView(smile, decode_bytes).html())
    lengths, ids, counters = json.loads(next(s for s in page.script if s.startswith("[[")))
    assert len(lengths) == len(ids) == len(counters)
    text = "".join(text for _, _, text in page.runs)
    assert sum(lengths) == len(text.encode("utf-16-le")) // 2
    starts = [int(attributes["data-p"]) for _, attributes, _ in page.runs]
    for (_, _, run), start, stop in zip(page.runs, starts, [*starts[1:], len(lengths)], strict=True):
        assert sum(lengths[start:stop]) == len(run.encode("utf-16-le")) // 2
    assert 2 in lengths, "the smile is one piece of two units"
    assert list("\U0001f642".encode()) in ids


def test_data_never_becomes_markup():
    page = TokenView(BLURRED, decode_bytes, title=HOSTILE).html()
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag in ("img", "iframe", "link", "object")]
    assert sum(tag == "script" for tag, _ in elements.tags) == 3 * len(BLURRED) + 1, "one per draw and the page's own"
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    assert "alert(1)" in page and "<script>alert" not in page
    assert "\x1b" not in page and "\u202e" not in page


def test_the_page_asks_for_nothing():
    page = TokenView(BLURRED, decode_bytes).html()
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["']?(?!#)""", page.split("<main>")[0])
    assert "@import" not in page and "url(" not in page and "http:" not in page and "https:" not in page


def test_the_summary_and_the_strip():
    view = TokenView({"one": BLURRED[0], "two": BLURRED[1]}, decode_bytes)
    page = view.html()
    for name, line in view.totals.lines:
        assert f"<th>{name}</th><td>{line}</td>" in page
    for sample in view.samples:
        for draw in sample.draws:
            assert draw.counts.line() in page
    strips = re.findall(r'<svg viewBox="0 0 (\d+) 1"', page)
    assert strips == [str(min(n, STRIP_CELLS)) for n in FLAT.lengths for _ in range(2)]


def test_one_row_has_no_totals_of_its_own():
    assert "totals" not in TokenView(byte_flat([trace("?", "Two.", "2")]), decode_bytes).html().split("<main>")[1]


def test_long_traces_are_few_elements_in_blocks():
    flat = byte_flat([trace("?", "A thought about numbers that goes on.\n" * 950, "4")])
    spans = Blur(ratio=0.2, granularity="span")(flat, Clock(0, 0))
    page = Elements(TokenView(spans, decode_bytes).html())
    blocks = sum(attributes.get("class") == "block" for _, attributes in page.tags)
    assert len(flat.tokens) > 36_000
    assert len(page.tags) < 4_000
    assert blocks > len(flat.tokens) / (2 * BLOCK_TOKENS)


def test_weights_states_and_removals_have_their_marks():
    weights = FLAT.weights.copy()
    weights[FLAT.counters == 0], weights[FLAT.counters == 1] = 1.5, 0
    page = TokenView(FLAT.with_weights(weights), decode_bytes, max_rows=1).html()
    assert 'style="--w:1.5" title="id 84, thought 0, label 84, weight 1.5">T<' in page
    assert '<s class="w thought" data-p=' in page and "struck</s> weight 0" in page
    removed = TokenView(without(FLAT, FLAT.counters == 2), decode_bytes, before=FLAT, max_rows=1).html()
    assert '<s class="r thought" data-p=' in removed and "removed</s>" in removed
    plain = TokenView(FLAT, decode_bytes).html().split("<main>")[1]
    assert "sharpen" not in plain and "struck" not in plain and "removed" not in plain


def test_a_notebook_gets_a_fragment_and_a_file_the_page(tmp_path):
    view = TokenView(FLAT, decode_bytes)
    fragment = view._repr_html_()
    assert fragment.startswith('<div class="cot">') and "<html" not in fragment and "<body" not in fragment
    path = view.save(tmp_path / "deep" / "tokens.html")
    assert path.read_text(encoding="utf-8") == view.html()
    assert view.html().startswith("<!doctype html>")


def test_the_terminal_shows_the_same_tokens():
    view = TokenView(BLURRED, decode_bytes)
    plain = render(view)
    for name, line in view.totals.lines:
        assert f"{name}  {line}" in plain
    assert "3 rows, 3 shown" in plain and "row 7, epoch 2" in plain
    draw = make_samples(BLURRED, decode_bytes)[0].draws[0]
    marked = "".join(f"[-{r.text}-]" if r.state.value == "ignored" else r.text for r in draw.runs)
    assert "".join(marked.split()) in "".join(plain.split())
    assert "[-" in marked


def test_the_terminal_uses_styles_where_it_can():
    styled = render(TokenView(BLURRED, decode_bytes), force_terminal=True, color_system="truecolor")
    assert "\x1b[2;9;34m" in styled, "blurred is dim and struck through"
    assert "[-" not in styled.replace("[-100", "")
    plain = render(TokenView(BLURRED, decode_bytes), force_terminal=True, color_system="truecolor", no_color=True)
    assert "[-" in plain


def test_escapes_in_the_data_do_not_reach_the_terminal():
    assert "\x1b" not in render(TokenView(FLAT, decode_bytes))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ends_of_the_ratio(ratio):
    view = TokenView(Blur(ratio=ratio, keep_first=0)(FLAT, Clock(0, 0)), decode_bytes)
    assert len(Elements(view.html()).runs) < 60
    assert ("(100.0 %)" in view.html()) is (ratio == 1)


def test_a_character_split_between_states_is_marked():
    first = np.flatnonzero(FLAT.tokens == "\u516d".encode()[0])
    labels = FLAT.labels.copy()
    labels[first[FLAT.roles[first] == Role.THOUGHT][0] + 2] = IGNORE
    page = Elements(TokenView(FLAT.with_labels(labels), decode_bytes).html())
    assert [text for tag, _, text in page.runs if tag == "s"] == [PARTIAL]
