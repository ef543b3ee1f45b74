"""A teacher's top k on disk."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cot_components.errors import UserError
from cot_components.losses.topk_store import TopKStore, TopKWriter, top_k

V, K = 30, 5
KEYS = {"vocab_size": V, "tokenizer": "tok-1", "data": "data-1"}
LENGTHS = {7: 6, 3: 9, 1000: 4, 12: 2, 5: 12}
LOGITS = {row: torch.randn(length, V) * 3 for row, length in LENGTHS.items()}


def write(folder: Path, rows: list[int], *, rows_per_part: int = 2) -> TopKWriter:
    writer = TopKWriter(folder, k=K, rows_per_part=rows_per_part, **KEYS)
    for row in rows:
        if row not in writer.done:
            writer.add(row, LOGITS[row])
    writer.flush()
    return writer


def check_all(store: TopKStore) -> None:
    """Every target of every row is the teacher's prediction of it from the position before."""
    for row, length in LENGTHS.items():
        found = store.lookup(np.full(length - 1, row), np.arange(1, length))
        for a, b in zip(found, top_k(LOGITS[row][:-1], K), strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype


def test_round_trip_over_parts_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, list(LENGTHS))
    store = TopKStore(tmp_path, **KEYS)
    assert len(store) == 5 and store.k == K and len(list(tmp_path.glob("0*"))) == 3
    check_all(store)
    mixed = store.lookup(np.array([5, 7, -1, 1000, 5]), np.array([11, 1, -1, 3, 1]))
    for i, row, position in [(0, 5, 11), (1, 7, 1), (3, 1000, 3), (4, 5, 1)]:
        expected = top_k(LOGITS[row][position - 1 : position], K)
        assert torch.equal(mixed.ids[i : i + 1], expected.ids) and torch.equal(mixed.tail[i : i + 1], expected.tail)
    torch.testing.assert_close(mixed.logp.exp().sum(-1) + mixed.tail, torch.ones(5))


def test_what_is_kept_is_a_distribution_near_the_teachers() -> None:
    logits = torch.randn(50, V) * 4
    top = top_k(logits, K)
    torch.testing.assert_close(top.logp.exp().sum(-1) + top.tail, torch.ones(50), atol=1e-3, rtol=0)
    torch.testing.assert_close(top.logp, logits.log_softmax(-1).gather(1, top.ids), atol=5e-3, rtol=1e-3)
    assert bool((top.tail >= 0).all()) and top_k(logits, 99).ids.shape == (50, V)


def test_an_interrupted_writer_goes_on_where_it_ended(tmp_path: Path) -> None:
    writer = TopKWriter(tmp_path, k=K, rows_per_part=2, **KEYS)
    for row in (7, 3, 1000):
        writer.add(row, LOGITS[row])  # 1000 is pending when the process dies
    (tmp_path / "000001.tmp").mkdir()
    (tmp_path / "000001.tmp" / "ids.npy").write_bytes(b"half")
    resumed = TopKWriter(tmp_path, k=K, rows_per_part=2, **KEYS)
    assert resumed.done == {7, 3}
    assert len(TopKStore(tmp_path, **KEYS)) == 2
    assert write(tmp_path, list(LENGTHS)).done == set(LENGTHS)
    check_all(TopKStore(tmp_path, **KEYS))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("changed", [{"tokenizer": "tok-2"}, {"data": "data-2"}, {"vocab_size": 31}, {"k": 6}])
def test_a_store_of_something_else_is_not_written_on(tmp_path: Path, changed: dict) -> None:
    write(tmp_path, [7])
    with pytest.raises(UserError, match=next(iter(changed))):
        TopKWriter(tmp_path, **{**KEYS, "k": K, **changed})


def test_stores_that_cannot_answer(tmp_path: Path) -> None:
    TopKWriter(tmp_path / "empty", k=K, **KEYS)
    with pytest.raises(UserError, match="holds no row"):
        TopKStore(tmp_path / "empty", **KEYS)
    write(tmp_path / "some", [7, 3])
    store = TopKStore(tmp_path / "some", **KEYS)
    for position in (0, 6):
        with pytest.raises(UserError, match=f"row 7 has no token {position}"):
            store.lookup(np.array([3, 7]), np.array([1, position]))


class Lookups(torch.utils.data.Dataset):
    def __init__(self, store: TopKStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.store.lookup(np.array([5]), np.array([index + 1])).logp


def test_a_store_goes_to_loader_workers(tmp_path: Path) -> None:
    write(tmp_path, list(LENGTHS))
    pickled = pickle.dumps(TopKStore(tmp_path, **KEYS))
    assert len(pickled) < 1000
    store = pickle.loads(pickled)
    check_all(store)
    found = torch.cat(list(DataLoader(Lookups(store), batch_size=None, num_workers=1)))
    assert torch.equal(found, top_k(LOGITS[5][:4], K).logp)
