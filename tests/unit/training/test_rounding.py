"""Stochastic rounding: against a plain twin, number by number; what it keeps, and that its mean is right."""

import functools
import struct

import numpy as np
import pytest
import torch

from cot_components.clock import draw_bits, row_keys
from cot_components.training import rounding
from cot_components.training.rounding import CHUNK, TABLE, draw_key, stochastic_round


@functools.cache
def plain_table():
    """The numbers below 65,536 over and over, in the order of the hashes of their places."""
    hashes = draw_bits(np.zeros(1, dtype=np.uint64), np.arange(TABLE)).tolist()
    return [place % 65_536 for place in sorted(range(TABLE), key=hashes.__getitem__)]


def plain_round(value, key, index):
    """One number, in Python's own integers."""
    chunk, place = divmod(index, CHUNK)
    begin = int(draw_bits(key, np.array([chunk]))[0] >> 11) * TABLE >> 53
    bits = plain_table()[(begin + place) % TABLE]
    upper = struct.unpack("<I", struct.pack("<f", value))[0] + bits & 0xFFFF0000
    return struct.unpack("<f", struct.pack("<I", upper))[0]


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_twin(monkeypatch, at_once):
    """Of one chunk at a time, as on a CPU, and of several, as on a GPU; the whole and its shards."""
    monkeypatch.setitem(rounding.AT_ONCE, "cpu", at_once)
    values = torch.randn(3 * CHUNK + 17, generator=torch.Generator().manual_seed(0)) * 0.02
    key = draw_key(7, 3, "layers.0.attn.q_proj.weight")
    whole = stochastic_round(values, key)
    for index in [0, 1, CHUNK // 2, CHUNK - 1, CHUNK, 2 * CHUNK + 70_000, len(values) - 1]:
        assert float(whole[index]) == plain_round(float(values[index]), key, index)
    for cut in (1, 1000, CHUNK, CHUNK + 99_000):
        parts = [stochastic_round(values[:cut], key), stochastic_round(values[cut:], key, start=cut)]
        assert torch.equal(torch.cat(parts), whole)


def test_what_bf16_holds_stays():
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    rounded = stochastic_round(every.float(), draw_key(0, 0, "w"))
    assert torch.equal(rounded.isnan(), every.isnan())
    same = ~every.isnan()
    assert torch.equal(rounded[same].view(torch.int16), every[same].view(torch.int16))
    odd = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)  # a carry leaves these
    assert stochastic_round(odd, draw_key(0, 0, "w")).isnan().all()


def test_the_mean_is_the_fp32_number_and_draws_are_independent():
    """5 standard errors of 4 M draws: neighbours, the same place of the next chunk or step."""
    share, draws = 0.3, 1 << 22
    values = torch.full((draws,), 1 + share * 2**-7)
    up, later = ((stochastic_round(values, draw_key(0, step, "w")) > 1).double() - share for step in (0, 1))
    limit = 5 * (share * (1 - share) / draws) ** 0.5
    assert abs(float(up.mean())) < limit
    for one, other in [(up, later), *((up[:-lag], up[lag:]) for lag in (1, 64, CHUNK // 2, CHUNK))]:
        assert abs(float((one * other).mean())) < limit


def test_every_part_of_a_key_counts():
    assert row_keys(0, 1, np.array([2])) != row_keys(0, 2, np.array([1]))
    keys = [draw_key(*of)[0] for of in [(0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"), (0, 1, "a/export")]]
    assert len(set(keys)) == 5
