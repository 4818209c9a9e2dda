"""Batches handed over in one piece: what comes out is what went in, in one block of shared memory."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from audiogen.core.interfaces import Batch, Condition
from audiogen.data.segments import Example, collate
from audiogen.training.parcel import ALIGNMENT, InParcels, Parcel, opened, wrapped


class Sounds(Dataset):
    def __getitem__(self, k: int) -> Example:
        condition = Condition(aligned=torch.full((3, 4), float(k)), mask=torch.tensor([k % 2 == 0, True, False]))
        return Example(torch.zeros(1, 0), 4, condition, k, f"sound {k}", mel=torch.arange(20.0).view(5, 4) + k)


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_a_parcel_holds_every_dtype_shape_and_stride_in_tuples_lists_and_dicts():
    mixed = {
        "strided": torch.arange(12.0).view(3, 4).T, "empty": torch.zeros(2, 0), "scalar": torch.tensor(7),
        "list": [torch.tensor([True, False, True]), "words", None],
        "pair": (torch.arange(5, dtype=torch.int16), torch.randn(3).bfloat16(), 2.5),
    }
    batch = Batch(torch.randn(2, 1, 7), None, torch.tensor([3, 4]), Condition(vector=torch.randn(2, 3)),
                  torch.tensor([1, 2]), ("a", ""))
    for content in (mixed, batch):
        parcel = wrapped(content)
        assert parcel.block.is_shared() and parcel.block.dtype == torch.uint8
        found = opened(parcel)
        assert set(found) == set(content) if isinstance(content, dict) else type(found) is Batch
        assert_same(list(found.values()) if isinstance(content, dict) else found,
                    list(content.values()) if isinstance(content, dict) else content)
    assert_same(opened(batch), batch)


def test_every_tensor_lies_in_the_one_block_aligned():
    parcel = wrapped([torch.ones(3, dtype=torch.bool), torch.ones(5), torch.ones(2, dtype=torch.int64)])
    begins = [part.data_ptr() - parcel.block.data_ptr() for part in opened(parcel)]
    assert begins == [0, ALIGNMENT, 2 * ALIGNMENT]


def test_a_worker_sends_parcels_and_the_loop_itself_plain_batches():
    alone = list(DataLoader(Sounds(), batch_sampler=[[0, 1, 2], [3, 4]], collate_fn=InParcels(collate)))
    sent = list(DataLoader(Sounds(), batch_sampler=[[0, 1, 2], [3, 4]], collate_fn=InParcels(collate), num_workers=1,
                           multiprocessing_context="spawn"))
    assert [type(batch) for batch in alone] == [Batch] * 2 and [type(batch) for batch in sent] == [Parcel] * 2
    for one, other in zip(alone, sent, strict=True):
        assert_same(opened(other), one)
