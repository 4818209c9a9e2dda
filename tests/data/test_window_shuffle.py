"""Every piece once an epoch, few shards at a time, and no state."""

from __future__ import annotations

import pickle

from audiogen.data.window_shuffle import WindowShuffle

COUNTS = [5, 1, 7, 3, 4, 6, 2]  # 28 pieces
ALL = {(shard, piece) for shard, count in enumerate(COUNTS) for piece in range(count)}


def test_an_epoch_sees_every_piece_once_and_epochs_differ():
    order = WindowShuffle(COUNTS, seed=3, window=2)
    epochs = [[order.place(k) for k in range(28 * epoch, 28 * (epoch + 1))] for epoch in range(3)]
    for seen in epochs:
        assert len(seen) == 28 and set(seen) == ALL
    assert len({tuple(seen) for seen in epochs}) == 3
    assert epochs[0] != [WindowShuffle(COUNTS, seed=4, window=2).place(k) for k in range(28)]


def test_no_more_shards_than_the_window_are_open_at_a_time():
    order = WindowShuffle(COUNTS, seed=0, window=2)
    for epoch in range(3):
        shards = [order.place(28 * epoch + k)[0] for k in range(28)]
        for shard in range(len(COUNTS)):  # from its first to its last piece, one other shard is seen at most
            first, last = shards.index(shard), 27 - shards[::-1].index(shard)
            assert len(set(shards[first : last + 1])) <= 2


def test_pieces_of_the_shards_of_a_window_are_mixed():
    order = WindowShuffle([100, 100], seed=0, window=2)
    changes = sum(order.place(k)[0] != order.place(k + 1)[0] for k in range(199))
    assert 70 < changes < 130  # 100 of two well mixed


def test_what_comes_next_is_the_next_window():
    order = WindowShuffle(COUNTS, seed=1, window=3)
    spans: list[tuple[list[int], set[int]]] = []  # what was foretold for afterwards, and the shards seen meanwhile
    for k in range(56):
        if not spans or spans[-1][0] != order.after(k):
            spans.append((order.after(k), set()))
        spans[-1][1].add(order.place(k)[0])
    assert len(spans) == 6  # seven shards are three windows
    for (foretold, _), (_, seen) in zip(spans, spans[1:], strict=False):
        assert seen == set(foretold)


def test_a_copy_in_another_process_has_the_same_order_from_anywhere():
    order = WindowShuffle(COUNTS, seed=5, window=3)
    copy = pickle.loads(pickle.dumps(order))
    assert [copy.place(k) for k in (1000, 17, 28, 1 << 50)] == [order.place(k) for k in (1000, 17, 28, 1 << 50)]
