"""Selectors: each against figures worked out by hand or a slow twin, whatever rows it is given beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rows import byte_flat, random_store, trace

from cot_components.data.rows.flat import Flat
from cot_components.data.rows.score_pass import Column, score_rows
from cot_components.data.rows.scores import open_scores, scored_tokens
from cot_components.data.rows.selection import select_rows
from cot_components.data.rows.store import PER_TOKEN, Rows
from cot_components.errors import UserError
from cot_components.selectors import GRAPE, AtRandom, PerplexityBand, PoFT, QTuning
from cot_components.selectors.qtuning import error_uncertainty


def stored(flat: Flat) -> Rows:
    columns = {name: getattr(flat, name).astype(kind) for name, kind in PER_TOKEN.items()}
    return Rows(**columns, row_start=flat.row_start, ids=flat.ids)


def score(rows: Rows, folder: Path, **columns: list[list[float]]) -> str:
    """A folder in which the scored tokens of each row have these numbers, or the one number of their row."""
    number = np.diff(np.concatenate([[0], np.cumsum(scored_tokens(rows))])[rows.row_start])
    given = {
        name: dict(
            zip(rows.ids.tolist(), (np.resize(row, n) for row, n in zip(values, number, strict=True)), strict=True)
        )
        for name, values in columns.items()
    }

    def look_up(flat: Flat) -> dict[str, np.ndarray]:
        found = {name: np.zeros(len(flat.tokens)) for name in columns}
        for name, values in found.items():
            values[scored_tokens(flat)] = np.concatenate([given[name][i] for i in flat.ids.tolist()])
        return found

    score_rows(rows, look_up, folder, columns={name: Column(name) for name in columns}, tokenizer="t")
    return str(folder)


def kept(rows: Rows, selector: object) -> list[int]:
    """Ids of the rows that a selector keeps."""
    return select_rows(rows, {"one": selector})[1].ids.tolist()  # type: ignore[dict-item]


@pytest.fixture(name="candidates")
def _candidates(tmp_path: Path) -> tuple[Rows, str]:
    """Three responses to one prompt (5, 20 and 8 tokens; -6, -12 and -8 nats), and one to another; ids 5, 3, 9, 4."""
    lengths, prompts = (5, 20, 8, 6), ("same", "same", "same", "other")
    flat = byte_flat(
        [trace(prompt, "t" * (n - 1), "a")[:1] + trace(prompt, "t" * (n - 1), "a")[2:3] + [trace("", "", "a")[-1]]
         for prompt, n in zip(prompts, lengths, strict=True)],
        ids=[5, 3, 9, 4],
    )  # fmt: skip
    rows = stored(flat)
    return rows, score(rows, tmp_path / "scores", nll=[[6 / 5], [12 / 20], [8 / 8], [9.0]])


@pytest.mark.parametrize(("options", "ids"), [({}, [3, 4]), ({"by": "sum"}, [5, 4]), ({"keep": 2}, [3, 9, 4])])
def test_of_several_responses_the_best_fitting_stay(candidates, options, ids) -> None:
    rows, folder = candidates
    assert kept(rows, GRAPE(scores=folder, **options)) == ids
    assert kept(rows.select([2, 0, 3]), GRAPE(scores=folder)) == [9, 4], "of those that are there"


def test_the_sums_and_means_behind_it(candidates) -> None:
    found = open_scores(candidates[1])
    assert found.row_sums("nll").round(5).tolist() == [6, 12, 8, 54]
    assert found.row_means("nll").round(5).tolist() == [1.2, 0.6, 1.0, 9.0]


def test_of_equals_the_first_stays(tmp_path: Path) -> None:
    rows = stored(byte_flat([trace("p", "t", c) for c in "abc"], ids=[8, 2, 6]))
    assert kept(rows, GRAPE(scores=score(rows, tmp_path / "s", nll=[[1.0]] * 3))) == [8]


PERPLEXITY = [1.2, 9.0, 2.0, 7.5, 1.5, 3.0, 6.0, 2.5]
ENTROPY = [0.2, 0.4, 1.8, 2.0, 0.3, 1.6, 0.5, 1.0]


@pytest.mark.parametrize(("keep", "wrong", "unsure"), [(0.25, [1], [2]), (0.5, [1, 6], [2, 7])])
def test_the_plane_of_error_and_uncertainty(keep: float, wrong: list[int], unsure: list[int]) -> None:
    plane = error_uncertainty(np.array(PERPLEXITY), np.array(ENTROPY), keep)
    assert np.flatnonzero(plane.misconceived).tolist() == wrong and np.flatnonzero(plane.unsure).tolist() == unsure
    assert np.stack(plane).sum(0).max() <= 1 and plane.noise[3] and plane.known[[0, 4]].all()


def slow_plane(perplexity: np.ndarray, entropy: np.ndarray, keep: float) -> tuple[set[int], set[int]]:
    """Row by row, as the paper's code goes about it."""
    low, high, n = 0.0, 0.49, len(perplexity)
    for _ in range(10):
        a = (low + high) / 2
        p, e = (lambda q: np.quantile(perplexity, q)), (lambda q: np.quantile(entropy, q))
        wrong = {i for i in range(n) if perplexity[i] > p(1 - a) and entropy[i] <= e(a)}
        unsure = {i for i in range(n) if perplexity[i] <= p(a) and entropy[i] > e(1 - a)}
        share = (len(wrong) + len(unsure)) / n
        if abs(share - keep) < 0.01:
            break
        low, high = (a, high) if share < keep else (low, a)
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in (perplexity, entropy)]
    for i in sorted(range(n), key=lambda i: -abs(scaled[0][i] - scaled[1][i])):
        if i not in wrong | unsure and len(wrong) + len(unsure) < round(keep * n):
            (wrong if scaled[0][i] >= scaled[1][i] else unsure).add(i)
    return wrong, unsure


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9, 1.0])
def test_the_plane_is_that_of_its_slow_twin(keep: float) -> None:
    random = np.random.default_rng(3)
    perplexity, entropy = np.exp(random.normal(size=80)), random.random(80)
    plane = error_uncertainty(perplexity, entropy, keep)
    found = [set(np.flatnonzero(corner).tolist()) for corner in plane[:2]]
    assert tuple(found) == slow_plane(perplexity, entropy, keep) and sum(map(len, found)) >= round(keep * 80)
    alike = error_uncertainty(np.ones(4), np.ones(4), keep)
    assert (alike.misconceived | alike.unsure).sum() == max(round(keep * 4), 1)


@pytest.fixture(name="scored")
def _scored(tmp_path: Path) -> tuple[Rows, str]:
    """Eight rows whose perplexity and entropy are those above, and whose aligned models have r = -0.4 and -0.9."""
    rows = random_store(8)
    columns = {"nll": [[np.log(p)] for p in PERPLEXITY], "entropy": [[e] for e in ENTROPY]}
    return rows, score(rows, tmp_path / "scores", **columns, one_nll=[[0.4]] * 8, two_nll=[[0.9]] * 8)


@pytest.mark.parametrize("order", [range(8), [6, 1, 2, 7], [6]])
def test_rows_have_the_same_fate_in_any_company(scored, order) -> None:
    rows, folder = scored
    chosen = {rows.ids[i] for i in (1, 2, 6, 7)}
    some = rows.select(list(order))
    assert kept(some, QTuning(scores=folder)) == [i for i in some.ids if i in chosen]
    band = PerplexityBand(scores=folder, at_least=2.0, at_most=7.0)
    assert kept(some, band) == [
        i for i, p in zip(some.ids, np.array(PERPLEXITY)[list(order)], strict=True) if 2 <= p <= 7
    ]
    factors = PoFT(scores=folder, aligned=["one_nll", "two_nll"])(some).factors
    slow = [1 / (1 + np.exp(0.65 - np.log(PERPLEXITY[i]))) for i in order]
    assert factors.tolist() == pytest.approx(slow) and factors.dtype == np.float32


def test_the_factor_of_aligned_models(tmp_path: Path) -> None:
    """sigmoid(mean(-0.4, -0.9) + 0.55) = 0.475021, a row of four tokens under the model and two others."""
    rows = stored(byte_flat([trace("p", "tt", "a")[:1] + trace("p", "tt", "aa")[2:3] + [trace("", "", "aa")[-1]]]))
    folder = score(rows, tmp_path / "s", nll=[[0.3, 1.2, 0.6, 0.1]], one=[[0.4]], two=[[0.9]])
    assert PoFT(scores=folder, aligned=["one", "two"])(rows).factors == pytest.approx(0.475021, abs=1e-6)
    weighed = select_rows(rows, {"poft": PoFT(scores=folder, aligned=["one", "two"])})[1]
    assert weighed.weights == pytest.approx(0.475021, abs=1e-6) and weighed.weights.dtype == np.float32


def test_a_band_of_quantiles_is_that_of_all_scored_rows(scored) -> None:
    rows, folder = scored
    middle = PerplexityBand(scores=folder, at_least=0.25, at_most=0.75, quantiles=True)
    low, high = np.quantile(PERPLEXITY, [0.25, 0.75])
    expected = [i for i, p in zip(rows.ids, PERPLEXITY, strict=True) if low <= p <= high]
    assert kept(rows, middle) == expected and len(expected) == 4
    assert kept(rows.select([3, 2]), middle) == [rows.ids[2]]


def test_rows_at_random() -> None:
    rows = random_store(400)
    half, more = (set(kept(rows, AtRandom(keep=share))) for share in (0.5, 0.7))
    assert len(half) == 200 and len(more) == 280 and half < more and half != set(kept(rows, AtRandom(keep=0.5, seed=1)))
    assert kept(rows, AtRandom(keep=1e-9)) != [] and kept(rows, AtRandom(keep=1)) == rows.ids.tolist()
    pairs = stored(byte_flat([trace(str(i // 2), "t", "a") for i in range(60)]))
    one_each = kept(pairs, AtRandom(per_prompt=1))
    assert [i // 2 for i in one_each] == list(range(30)) and 5 < sum(i % 2 for i in one_each) < 25


def test_selectors_choose_in_order_and_say_what_left(candidates) -> None:
    rows, folder = candidates
    named = {"easy": PerplexityBand(scores=folder, at_least=np.exp(0.9)), "fit": GRAPE(scores=folder)}
    index, found, choices = select_rows(rows, named)
    assert found.ids.tolist() == [9, 4] and index.tolist() == [2, 3], "the likeliest had left already"
    said = [choice.summary() for choice in choices]
    assert "easy keeps 3 of 4" in said[0] and "(row 3)" in said[0] and "fit keeps 2 of 3" in said[1]
    weighed = {"poft": PoFT(scores=folder, aligned=["nll"]), **named}
    assert (select_rows(replace(rows, weights=rows.weights * 3), weighed)[1].weights == 1.5).all()
    with pytest.raises(UserError, match=r"select\.none keeps none of 4"):
        select_rows(rows, {"none": PerplexityBand(scores=folder, at_least=1e6)})
    with pytest.raises(UserError, match=r"select\.fit: .*row 3 has no scores; the scores are of other data"):
        select_rows(random_store(1), {"fit": GRAPE(scores=score(rows.select([0]), Path(folder) / "x", nll=[[1]]))})
