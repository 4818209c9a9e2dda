from __future__ import annotations

import pytest
import torch
from scipy import stats

from audiogen.core.rng import SampleRng, generator, key


def test_a_sample_draws_the_same_alone_in_any_batch_and_in_any_order():
    ids = [5, 0, 3, 1_000_000, 2**40]
    batch = SampleRng(7, step=2, ids=ids)
    first, second, uniform = batch.randn(3, 4), batch.randn(2), batch.rand(6)
    for row, i in enumerate(ids):
        alone = SampleRng(7, step=2, ids=[i])
        assert torch.equal(alone.randn(3, 4)[0], first[row])
        assert torch.equal(alone.randn(2)[0], second[row])
        assert torch.equal(alone.rand(6)[0], uniform[row])
    turned = SampleRng(7, step=2, ids=torch.tensor(ids[::-1]))
    assert torch.equal(turned.randn(3, 4), first.flip(0))
    assert len(batch) == 5


def test_seed_step_id_and_stream_each_change_every_draw():
    draws = [
        SampleRng(0).randn(8), SampleRng(1).randn(8), SampleRng(0, step=1).randn(8), SampleRng(0, ids=[1]).randn(8),
        SampleRng(0, stream="x").randn(8), SampleRng(0).fork("x").randn(8), SampleRng(0).fork("x").fork("y").randn(8),
        SampleRng(-1).randn(8), SampleRng(2**63).randn(8),
    ]
    for a in range(len(draws)):
        for b in range(a):
            assert not (draws[a] == draws[b]).any()


def test_a_fork_leaves_its_parent_alone_and_does_not_depend_on_what_was_drawn():
    parent = SampleRng(3, ids=[1, 2])
    before = parent.fork("noise").randn(4)
    drawn = parent.randn(4)
    assert torch.equal(parent.fork("noise").randn(4), before)
    assert torch.equal(SampleRng(3, ids=[1, 2]).randn(4), drawn)


def test_keys_are_the_same_everywhere_and_know_their_parts_apart():
    assert key(1, "a", 23) == 4481172969685229206, "seeds of published clips hang on this"
    keys = [key(1, 23), key(12, 3), key(123), key("123"), key(1, "23"), key("1", "2", "3"), key(), key("")]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**63 for k in keys)


def test_generator_draws_by_its_key_and_not_by_the_global_state():
    torch.manual_seed(0)
    a = torch.randn(4, generator=generator(1, "a"))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(torch.randn(4, generator=generator(1, "a")), a)
    SampleRng(0).randn(3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("across", ["ids", "steps", "seeds"])
def test_first_numbers_of_neighbouring_keys_are_normal_uniform_and_uncorrelated(across):
    """Weak seeding shows in the first draw of consecutive keys: 2000 of them must look like one good source."""
    n = 2000
    sources = {
        "ids": [SampleRng(0, ids=range(n))],
        "steps": [SampleRng(0, step=step) for step in range(n)],
        "seeds": [SampleRng(seed) for seed in range(n)],
    }[across]
    normal = torch.cat([source.randn(2) for source in sources])
    uniform = torch.cat([source.rand(1) for source in sources])[:, 0]
    assert stats.kstest(normal[:, 0].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert abs(torch.corrcoef(normal.T)[0, 1]) < 4 / n**0.5
    assert abs(torch.corrcoef(torch.stack([normal[1:, 0], normal[:-1, 0]]))[0, 1]) < 4 / n**0.5


@pytest.mark.parametrize("kind", ["tape_randn", "tape_rand"])
def test_a_tape_has_one_number_for_each_channel_and_position_however_it_is_read(kind):
    def tape(channels, start, stop, ids=(3, 8)):
        return getattr(SampleRng(5, step=1, ids=ids), kind)(channels, start, stop)

    whole = tape(3, 0, 10_000)
    assert whole.shape == (2, 3, 10_000) and whole.dtype == torch.float32
    for start, stop in [(0, 1), (4095, 4097), (4096, 8192), (100, 9000), (9999, 10_000), (700, 700)]:
        assert torch.equal(tape(3, start, stop), whole[..., start:stop])
    for size in (1, 7, 4096, 5000):
        assert torch.equal(torch.cat([tape(1, at, min(at + size, 300)) for at in range(0, 300, size)], -1),
                           whole[:, :1, :300])
    assert torch.equal(tape(2, 0, 50), whole[:, :2, :50])  # channels do not depend on how many there are
    assert torch.equal(tape(3, 0, 50, ids=(8,))[0], whole[1, :, :50])  # nor clips on the batch


def test_reading_a_tape_moves_nothing_and_all_tapes_differ():
    rng = SampleRng(0, ids=[0, 1])
    expected = SampleRng(0, ids=[0, 1]).randn(5)
    first = rng.tape_randn(2, 0, 9000)
    assert torch.equal(rng.tape_randn(2, 0, 9000), first) and torch.equal(rng.randn(5), expected)
    others = [rng.fork("x").tape_randn(2, 0, 9000), SampleRng(1, ids=[0, 1]).tape_randn(2, 0, 9000)]
    rows = torch.cat([first, *others]).flatten(0, 1).unflatten(1, (9, 1000)).flatten(0, 1)  # clips, channels, stretches
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.2
    assert stats.kstest(first.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(rng.tape_rand(2, 0, 9000).flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("start, stop", [(-1, 3), (5, 4)])
def test_positions_that_are_none_are_refused(start, stop):
    with pytest.raises(ValueError, match=f"start={start}, stop={stop}"):
        SampleRng(0).tape_randn(1, start, stop)
