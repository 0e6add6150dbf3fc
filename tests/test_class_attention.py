# SPDX-License-Identifier: BSD-2-Clause
"""ClassAttention: scores of every token after every head, at the closest legal spacing."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from rtl.class_attention import ClassAttention
from rtl.config import named
from rtl.rowsum import RowSum
from tests.pipeline import assert_equal

TINY = named("tiny")
LIMIT = (1 << 16) - 1
#: Cycles from the last capture of a head to its reciprocal: nearer than RowSum gives it.
RECIPROCAL = 8
#: Fewest cycles from the last capture of a head to the first one of the next.
HEAD_GAP = 31


@dataclass
class Head:
    """What one head gives: whole K tiles of ``e`` and ``z``, whatever is beyond the tokens."""

    e: np.ndarray
    z: np.ndarray
    mantissa: int
    n: int
    score_s: int

    def attention(self, tokens):
        """Return ``t`` of every token."""
        shift = self.score_s + self.z[:tokens].astype(np.int64) - self.n
        return np.minimum(self.e[:tokens].astype(np.int64) * self.mantissa >> shift, LIMIT)


def _config(rows, tokens):
    return replace(TINY, rows=rows, max_tokens=max(2, tokens))


def _random(rng, config, tokens, heads):
    """Heads of one image; some scores run into the limit, some attention is cut to nothing."""
    size = -(-tokens // config.rows) * config.rows
    return [Head(e=rng.integers(0, 65408, size) >> rng.integers(0, 8, size),
                 z=rng.integers(0, 16, size) >> rng.integers(0, 4),
                 mantissa=int(rng.integers(1 << 16, 1 << 17)), n=int(rng.integers(0, 18)),
                 score_s=int(rng.integers(18, 31))) for _ in range(heads)]


def _expected(images):
    """Return the (position, score) of every head, in order, of images ``(tokens, heads)``."""
    out = []
    for tokens, heads in images:
        score = np.zeros(tokens, np.int64)
        for head in heads:
            score = np.minimum(score + head.attention(tokens), LIMIT)
            out.append(np.stack([np.arange(tokens), score], 1))
    return out


def _schedule(config, images, *, gap, reciprocal):
    """Return what is set in which cycle, the cycles of the first captures and of the reciprocals.

    ``gap(last)`` is the cycles to the next capture, ``last`` if this one is the last of its head.
    """
    events, starts, reciprocals = {}, [], []
    cycle = 0
    for image, (tokens, heads) in enumerate(images):
        for number, head in enumerate(heads):
            tiles = -(-tokens // config.rows)
            starts.append(cycle)
            for k in range(tiles):
                lanes = slice(k * config.rows, (k + 1) * config.rows)
                events.setdefault(cycle, {}).update(
                    capture=1, first_k=k == 0, first_head=number == 0, score_s=head.score_s,
                    segment=image % config.images, tokens=tokens,
                    e=sum(int(v) << 16 * i for i, v in enumerate(head.e[lanes])),
                    power=sum(int(v) << 4 * i for i, v in enumerate(head.z[lanes])))
                if k == tiles - 1:
                    reciprocals.append(cycle + reciprocal)
                    events.setdefault(cycle + reciprocal, {}).update(
                        reciprocal_valid=1, mantissa=head.mantissa, shift=head.n)
                cycle += gap(k == tiles - 1)
        # Another number of tokens only when the unit is idle.
        cycle += tokens + ClassAttention.LATENCY + reciprocal
    return events, starts, reciprocals


def _run(config, images, *, gap, reciprocal, rng):
    """Run all heads; return their scores, after checking the cycle of every output."""
    events, starts, reciprocals = _schedule(config, images, gap=gap, reciprocal=reciprocal)
    counts = [tokens for tokens, heads in images for _ in heads]
    segments = [i % config.images for i, (_, heads) in enumerate(images) for _ in heads]
    first_out = [cycle + ClassAttention.LATENCY for cycle in reciprocals]
    expected_en = {start + p: (h, p) for h, (start, count) in enumerate(
        zip(first_out, counts, strict=True)) for p in range(count)}
    expected_busy = {cycle for start, out, count in zip(starts, first_out, counts, strict=True)
                     for cycle in range(start + 1, out + count)}
    scores = [np.full((count, 2), -1) for count in counts]
    dut = ClassAttention(config)

    async def bench(ctx):
        for cycle in range(max(expected_en) + 20):
            event = events.get(cycle, {})
            for name in ("capture", "reciprocal_valid"):
                ctx.set(getattr(dut, name), event.get(name, 0))
            for name in ("first_k", "first_head", "score_s", "segment", "mantissa",
                         "shift", "e", "power"):
                # What comes without its valid bit is anything.
                port = Value.cast(getattr(dut, name))
                wild = int(rng.integers(0, 1 << 62)) & ((1 << len(port)) - 1)
                ctx.set(port, int(event.get(name, wild)))
            if "tokens" in event:
                ctx.set(dut.tokens, event["tokens"])
            assert ctx.get(dut.score_en) == (cycle in expected_en), f"score_en in cycle {cycle}"
            assert ctx.get(dut.busy) == (cycle in expected_busy), f"busy in cycle {cycle}"
            if cycle in expected_en:
                head, p = expected_en[cycle]
                scores[head][p] = ctx.get(dut.score_row), ctx.get(dut.score)
                assert ctx.get(dut.score_segment) == segments[head], f"segment of head {head}"
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return scores


def _check(config, images, *, gap, reciprocal=RECIPROCAL, seed=0):
    scores = _run(config, images, gap=gap, reciprocal=reciprocal, rng=np.random.default_rng(seed))
    for head, (expected, got) in enumerate(zip(_expected(images), scores, strict=True)):
        assert_equal(f"position, score of head {head}", expected, got)


def _closest(config):
    """Return the closest legal spacing: a tile takes ``rows`` cycles to load."""
    return lambda last: max(config.rows, HEAD_GAP) if last else config.rows


@pytest.mark.parametrize("rows, most", [(16, 112), (32, 144), (64, 198)])
def test_closest_spacing(rows, most):
    """One token to the most, sizes around every tile, three heads as close as can be."""
    rng = np.random.default_rng(rows)
    config = _config(rows, most)
    sizes = sorted({1, 2, most} | {n for k in range(rows, most, rows) for n in (k, k + 1)})
    images = [(n, _random(rng, config, n, 3)) for n in sizes]
    _check(config, images, gap=_closest(config))


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_every_number_of_tokens(rows):
    rng = np.random.default_rng(rows + 1)
    config = _config(rows, 70)
    images = [(n, _random(rng, config, n, 2)) for n in range(1, 71)]
    _check(config, images, gap=_closest(config))


@pytest.mark.parametrize("rows, most", [(16, 198), (64, 40), (128, 300)])
def test_other_sizes(rows, most):
    rng = np.random.default_rng(rows + 2)
    config = _config(rows, most)
    _check(config, [(most, _random(rng, config, most, 3))], gap=_closest(config))


@pytest.mark.parametrize("reciprocal", [ClassAttention.WRITE_LATENCY, 16, 30, 31])
def test_moment_of_the_reciprocal(reciprocal):
    """From the earliest, with one tile that is still being written, to the cycle in which the
    first K tile of the next head comes."""
    rng = np.random.default_rng(reciprocal)
    config = _config(16, 48)
    images = [(n, _random(rng, config, n, 4)) for n in (5, 16, 47)]
    _check(config, images, gap=_closest(config), reciprocal=reciprocal)


def test_wide_spacing():
    rng = np.random.default_rng(7)
    config = _config(16, 40)
    images = [(n, _random(rng, config, n, 5)) for n in (33, 40)]
    _check(config, images, gap=lambda last: int(rng.integers(HEAD_GAP, 120)))


def test_reciprocal_of_row_sum_is_in_time():
    """The spacing that the tests take is nearer than what RowSum gives, with any array."""
    for rows in (16, 32, 64, 128):
        assert ClassAttention.WRITE_LATENCY <= RECIPROCAL < RowSum(_config(rows, 198)).latency
        assert RowSum(_config(rows, 198)).latency < HEAD_GAP


def test_limits():
    """The greatest attention and the least, sums that meet the limit exactly and by one more."""
    config = _config(16, 16)

    def head(e, z, n, score_s, mantissa=1 << 16):
        return Head(np.full(16, e), np.full(16, z), mantissa, n, score_s)

    greatest = head(65407, 0, 17, 18, (1 << 17) - 1)
    assert greatest.attention(1) == LIMIT
    one = head(1, 0, 17, 33)
    assert one.attention(1) == 1
    most_but_one = head(32767, 0, 17, 32)
    assert most_but_one.attention(1) == LIMIT - 1
    nothing = head(65407, 15, 0, 48, (1 << 17) - 1)
    assert nothing.attention(1) == 0
    images = [(16, heads) for heads in (
        [greatest, nothing, one], [most_but_one, one, one, nothing], [nothing] * 2,
        [most_but_one, most_but_one], [greatest, greatest, greatest])]
    assert [int(scores[0][1]) for scores in _expected(images)] == [
        LIMIT, LIMIT, LIMIT, LIMIT - 1, LIMIT, LIMIT, LIMIT, 0, 0, LIMIT - 1, LIMIT, LIMIT, LIMIT,
        LIMIT]
    _check(config, images, gap=_closest(config))
