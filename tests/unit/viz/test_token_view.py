"""The token view as a page, a notebook fragment and terminal output."""

import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console
from rows import byte_flat, decode_bytes, trace, without

from cot_components.clock import Clock
from cot_components.roles import IGNORE, Role
from cot_components.transforms.blur import Blur
from cot_components.viz.token_html import BLOCK_TOKENS, STRIP_CELLS
from cot_components.viz.token_samples import PARTIAL
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
VIEW = TokenView(BLURRED, decode_bytes)
RUNS = [run for sample in VIEW.samples for draw in sample.draws for run in draw.runs]


class Elements(HTMLParser):
    """Elements of a page, the texts of its scripts, and its runs of tokens as `[tag, attributes, text]`."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.runs, self.script, self._open = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if "data-p" in dict(attributes):
            self.runs.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self._open == "script":
            self.script.append(data)
        elif self._open in ("s", "span") and self.runs:
            self.runs[-1][2] += data

    def handle_endtag(self, tag):
        self._open = None


def render(view, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(view)
    return console.file.getvalue()


def content(flat, **options):
    return TokenView(flat, decode_bytes, **options).html().split("<main>")[1]


def test_the_page_holds_every_token_of_every_draw_and_its_counts():
    page = VIEW.html()
    expected = [("s" if run.state.value == "ignored" else "span", run.text) for run in RUNS]
    assert [(tag, text) for tag, _, text in Elements(page).runs] == expected and len(expected) > 100
    for name, line in VIEW.totals.lines:
        assert f"<th>{name}</th><td>{line}</td>" in page
    assert all(draw.counts.line() in page for sample in VIEW.samples for draw in sample.draws)
    strips = re.findall(r'<svg viewBox="0 0 (\d+) 1"', page)
    assert strips == [str(min(n, STRIP_CELLS)) for n in FLAT.lengths for _ in BLURRED]
    assert "totals" not in content(byte_flat([trace("?", "Two.", "2")])), "one row has none of its own"
    for ratio in (0.0, 1.0):
        page = content(Blur(ratio=ratio, keep_first=0)(FLAT, Clock(0, 0)))
        assert len(Elements(page).runs) < 60 and ("(100.0 %)" in page) is (ratio == 1)


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
    page = Elements(TokenView(byte_flat([trace("?", "ok \U0001f642 \u516d", "4")]), decode_bytes).html())
    lengths, ids, counters = json.loads(next(s for s in page.script if s.startswith("[[")))
    starts = [*(int(attributes["data-p"]) for _, attributes, _ in page.runs), len(lengths)]
    assert starts[0] == 0 and len(lengths) == len(ids) == len(counters)
    for (_, _, text), (start, stop) in zip(page.runs, pairwise(starts), strict=True):
        assert sum(lengths[start:stop]) == len(text.encode("utf-16-le")) // 2
    assert lengths[ids.index(list("\U0001f642".encode()))] == 2, "the smile is one piece of two units"


def test_data_never_becomes_markup_and_nothing_is_asked_for():
    page = TokenView(BLURRED, decode_bytes, title=HOSTILE).html()
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag in ("img", "iframe", "link", "object")]
    assert sum(tag == "script" for tag, _ in elements.tags) == 3 * len(BLURRED) + 1, "one per draw and the page's own"
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    assert "alert(1)" in page and "<script>alert" not in page and "\x1b" not in page and "\u202e" not in page
    quiet = VIEW.html()
    assert "default-src 'none'" in quiet and not re.search("@import|url\\(|https?:", quiet)
    assert not re.search(r"""(?:src|href)=["']?(?!#)""", quiet.split("<main>")[0])


def test_long_traces_are_few_elements_in_blocks():
    flat = byte_flat([trace("?", "A thought about numbers that goes on.\n" * 950, "4")])
    page = Elements(TokenView(Blur(ratio=0.2, granularity="span")(flat, Clock(0, 0)), decode_bytes).html())
    blocks = sum(attributes.get("class") == "block" for _, attributes in page.tags)
    assert len(flat.tokens) > 36_000 and len(page.tags) < 4_000 and blocks > len(flat.tokens) / (2 * BLOCK_TOKENS)


def test_weights_states_and_removals_have_their_marks():
    weights = FLAT.weights.copy()
    weights[FLAT.counters == 0], weights[FLAT.counters == 1] = 1.5, 0
    page = content(FLAT.with_weights(weights), max_rows=1)
    assert 'style="--w:1.5" title="id 84, thought 0, label 84, weight 1.5">T<' in page
    assert '<s class="w thought" data-p=' in page and "struck</s> weight 0" in page
    removed = content(without(FLAT, FLAT.counters == 2), before=FLAT, max_rows=1)
    assert '<s class="r thought" data-p=' in removed and "removed</s>" in removed
    assert not re.search("sharpen|struck|removed", content(FLAT))
    partial = np.flatnonzero((FLAT.tokens == "\u516d".encode()[0]) & (FLAT.roles == Role.THOUGHT))[0] + 2
    labels = np.where(np.arange(len(FLAT.tokens)) == partial, IGNORE, FLAT.labels)
    runs = Elements(content(FLAT.with_labels(labels))).runs
    assert [text for tag, _, text in runs if tag == "s"] == [PARTIAL], "a character split between states"


def test_a_notebook_gets_a_fragment_and_a_file_the_page(tmp_path):
    fragment = VIEW._repr_html_()
    assert fragment.startswith('<div class="cot">') and "<html" not in fragment and "<body" not in fragment
    page = VIEW.save(tmp_path / "deep" / "tokens.html").read_text(encoding="utf-8")
    assert page == VIEW.html() and page.startswith("<!doctype html>") and fragment in page


def test_the_terminal_shows_the_same_tokens_marked_by_styles_where_it_has_them():
    plain = render(VIEW)
    assert all(f"{name}  {line}" in plain for name, line in VIEW.totals.lines)
    assert "3 rows, 3 shown" in plain and "row 7, epoch 2" in plain and "\x1b" not in plain
    draw = VIEW.samples[0].draws[0]
    marked = "".join(f"[-{r.text}-]" if r.state.value == "ignored" else r.text for r in draw.runs)
    assert "[-" in marked and "".join(marked.split()) in "".join(plain.split())
    styled = render(VIEW, force_terminal=True, color_system="truecolor")
    assert "\x1b[2;9;34m" in styled and "[-" not in styled.replace("[-100", ""), "dim and struck through"
    assert "[-" in render(VIEW, force_terminal=True, color_system="truecolor", no_color=True)


@pytest.mark.parametrize(("width", "heads"), [(186, 1), (185, 3)])
def test_draws_stand_side_by_side_where_the_terminal_is_wide_enough(width, heads):
    """Three strips of 60 cells and the gaps between them take 186; what is said is the same."""
    text = render(VIEW, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    lines = [line for line in text.splitlines() if line.startswith("row 7, ")]
    assert len(lines) == heads and sum(line.count("row 7, ") for line in lines) == 3
    assert text.count("supervised") == render(VIEW).count("supervised")
