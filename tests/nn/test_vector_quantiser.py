from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.vector_quantiser import QuantiserConfig, ResidualQuantiser, nearest


def quantiser(dim=4, **fields):
    torch.manual_seed(0)
    return ResidualQuantiser(QuantiserConfig(**fields), dim)


def vectors(batch=4, dim=4, steps=32, seed=0):
    return torch.randn(batch, dim, steps, generator=torch.Generator().manual_seed(seed))


def everything(x):
    return torch.ones(len(x), 1, x.shape[2])


def trained(model, batches=20, **shape):
    for step in range(batches):
        x = vectors(seed=step, dim=model.dim, **shape)
        model.learn(x, everything(x), SampleRng(0, step=step, ids=range(len(x))))
    return model


def test_the_nearest_vector_is_the_nearest():
    x, book = vectors(dim=3).transpose(1, 2), torch.randn(9, 3)
    for row, codes in zip(x, nearest(x, book), strict=True):
        for point, code in zip(row, codes, strict=True):
            distances = [float((point - vector).norm()) for vector in book]
            assert int(code) == distances.index(min(distances))


def test_moving_averages_are_those_of_the_closed_form():
    """Two vectors on a line, members on either side of 0: what they become can be written down."""
    decay, smoothing = 0.9, 0.3
    model = quantiser(1, books=1, size=2, decay=decay, smoothing=smoothing, dead=0.0)
    model.begun.fill_(True)
    model.vectors[0] = torch.tensor([[-1.0], [1.0]])
    model.counts.fill_(2.0)
    model.sums.copy_(2.0 * model.vectors)
    batches = [[-2.0, -1.0, 3.0], [4.0], [-0.5, 1.0, 2.0, 5.0]]
    for step, members in enumerate(batches):
        x = torch.tensor(members)[None, None]
        model.learn(x, everything(x), SampleRng(0, step=step))
    after = len(batches)
    counts, sums = [2.0 * decay**after] * 2, [-2.0 * decay**after, 2.0 * decay**after]
    for step, members in enumerate(batches):
        for member in members:
            side, share = int(member > 0), (1 - decay) * decay ** (after - 1 - step)
            counts[side] += share
            sums[side] += share * member
    smooth = [(n + smoothing) / (sum(counts) + 2 * smoothing) * sum(counts) for n in counts]
    torch.testing.assert_close(model.counts[0], torch.tensor(counts))
    torch.testing.assert_close(model.vectors[0, :, 0], torch.tensor([m / n for m, n in zip(sums, smooth, strict=True)]))


def test_every_book_leaves_less_and_the_sum_is_what_is_decoded():
    model = trained(quantiser(8, books=4, size=16))
    x = vectors(dim=8, seed=100)
    q = model(x)
    left = [float(x.square().mean())]
    for books in range(1, 5):
        error = (x - model.decode(q.codes[:, :books])).square().mean()
        torch.testing.assert_close(error, q.commitment[:, books - 1].mean())
        left.append(float(error))
    assert all(after < 0.9 * before for before, after in zip(left[:-1], left[1:], strict=True)), left
    torch.testing.assert_close(q.values, model.decode(q.codes))


def test_the_gradient_goes_straight_through_and_commitment_pulls_to_the_code():
    model, x = trained(quantiser(books=2, size=8)), vectors().requires_grad_()
    weight = vectors(seed=9)
    (model(x).values * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)
    x.grad = None
    q = model(x)
    q.commitment[:, 0].sum().backward()
    first = model.decode(q.codes[:, :1])
    torch.testing.assert_close(x.grad, 2 * (x.detach() - first) / 4)  # the mean over 4 dimensions


def test_fewer_books_are_the_first_ones():
    model, x = trained(quantiser(books=3, size=8)), vectors()
    q = model(x, books=torch.tensor([1, 2, 3, 3]))
    for sample, books in enumerate((1, 2, 3, 3)):
        torch.testing.assert_close(q.values[sample], model.decode(q.codes[sample : sample + 1, :books])[0])


def test_the_first_batch_begins_with_its_own_means():
    """Eight tight clusters far apart: k-means finds them, but for those it drew two members of."""
    centres = 100.0 * torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    which = torch.arange(4 * 64) % 8
    x = (centres[which] + 0.01 * torch.randn(256, 4)).view(4, 64, 4).transpose(1, 2)
    model = quantiser(books=1, size=32, dead=0.0)
    model.learn(x, everything(x), SampleRng(0, ids=range(4)))
    assert model(x).commitment.max() < 0.01
    assert model.begun


def test_fewer_members_than_vectors_give_vectors_that_differ():
    model, x = quantiser(books=1, size=64), vectors(batch=1, steps=5)
    model.learn(x, everything(x), SampleRng(0))
    assert torch.isfinite(model.vectors).all() and len(model.vectors[0].unique(dim=0)) == 64
    assert model(x).commitment.max() < 0.05


def test_dead_vectors_come_back():
    model = quantiser(books=2, size=16, decay=0.8)
    trained(model, batches=1)
    model.vectors[:, 4:] = 1e3  # nothing is there
    model.sums[:, 4:] = 1e3 * model.counts[:, 4:, None]
    before, revived = model.perplexity(), torch.zeros(2)
    for step in range(1, 40):
        x = vectors(seed=step)
        revived += model.learn(x, everything(x), SampleRng(0, step=step, ids=range(4)))
    assert (revived >= 12).all() and model.vectors.abs().max() < 10
    assert (model.perplexity() > 10).all() and (model(vectors(seed=77)).codes[:, 0].unique().numel() > 8)
    assert (model.perplexity() < 16).all() and before.shape == (2,)


def test_perplexity_counts_what_is_used():
    model = quantiser(books=2, size=8)
    model.counts[0], model.counts[1] = 3.0, torch.eye(8)[2]
    torch.testing.assert_close(model.perplexity(), torch.tensor([8.0, 1.0]))


def test_padding_is_no_member_and_silence_alone_changes_nothing():
    model, other = trained(quantiser(books=2, size=8), 3), trained(quantiser(books=2, size=8), 3)
    x, mask = vectors(), torch.ones(4, 1, 32)
    mask[1, :, 20:] = 0
    changed = torch.where(mask > 0, x, 1e3)
    rng = SampleRng(0, step=9, ids=range(4))
    model.learn(x, mask, rng)
    other.learn(changed, mask, rng)
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    kept = model.vectors.clone()
    assert not model.learn(x, torch.zeros_like(mask), rng).any() and torch.equal(model.vectors, kept)


def share(rank: int, folder: str, world: int) -> None:
    """A process's share of a few batches, in which vectors are drawn, die and come back."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
    model, moved = quantiser(books=2, size=24, decay=0.5, dead=0.5), 0.0
    for step in range(6):
        x, mask = vectors(seed=step), torch.ones(4, 1, 32)
        mask[3, :, 4:] = 0
        mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
        ids = list(range(4))[mine]
        moved += model.learn(x[mine], mask[mine], SampleRng(0, step=step, ids=ids)).sum()
    torch.save({"moved": moved, **model.state_dict()}, f"{folder}/{world}_{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns(tmp_path):
    share(0, str(tmp_path), 1)
    torch.multiprocessing.spawn(share, (str(tmp_path), 2), nprocs=2)
    alone, *both = (torch.load(tmp_path / name, weights_only=True) for name in ("1_0.pt", "2_0.pt", "2_1.pt"))
    assert alone["moved"] > 10
    for one in both:
        for name, value in alone.items():
            torch.testing.assert_close(one[name], value, msg=name)


def test_what_cannot_be_is_one_clear_line():
    for fields in (dict(books=0), dict(size=1), dict(decay=1.0), dict(smoothing=0.0), dict(dead=-1.0)):
        with pytest.raises(UserError, match=next(iter(fields))):
            QuantiserConfig(**fields)
    model = quantiser(books=2, size=8)
    for codes in (torch.zeros(1, 3, 4), torch.full((1, 2, 4), 8), torch.full((1, 2, 4), -1)):
        with pytest.raises(ValueError, match="codes"):
            model.decode(codes.long())
