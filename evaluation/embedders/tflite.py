"""A reader for the tensors and operators of a TensorFlow Lite flatbuffer; what YAMNet needs, without TensorFlow.

Field numbers are those of tensorflow/lite/schema/schema.fbs. A flatbuffer table starts with the distance back to its
vtable; the vtable says where in the table each numbered field lies (0: absent).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from audiogen.core.errors import UserError

DTYPES = {0: "<f4", 2: "<i4", 9: "<i1"}
ADD, CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED = 0, 3, 4, 9


@dataclass(frozen=True)
class TfliteTensor:
    name: str
    shape: tuple[int, ...]
    values: np.ndarray | None  # constants only, dequantised to float32; None for what is computed
    scale: np.ndarray | None  # quantisation steps: one, or one a channel
    zero: np.ndarray | None


@dataclass(frozen=True)
class TfliteOperator:
    code: int  # of the schema's BuiltinOperator
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(data: bytes, *, what: str = "file") -> tuple[list[TfliteTensor], list[TfliteOperator]]:
    """Tensors and operators of the first subgraph, in order. Raises `UserError` where the file is none."""
    if data[4:8] != b"TFL3":
        raise UserError(f"{what} is not a TensorFlow Lite model")
    try:
        model = _Table(data, struct.unpack_from("<I", data, 0)[0])
        # OperatorCode: the old 8-bit field 0 holds codes below 127, field 3 all of them
        codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
        graph = model.tables(2)[0]
        buffers = model.tables(4)
        tensors = [_tensor(tensor, buffers) for tensor in graph.tables(0)]
        operators = [
            TfliteOperator(codes[op.number(0, "I")], *(tuple(op.array(field, "<i4").tolist()) for field in (1, 2)))
            for op in graph.tables(3)
        ]
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as reason:
        raise UserError(f"{what} is a corrupt TensorFlow Lite model ({reason}); copy it again") from None
    return tensors, operators


def _tensor(table: _Table, buffers: list[_Table]) -> TfliteTensor:
    shape = tuple(table.array(0, "<i4").tolist())
    raw = buffers[table.number(2, "I")].array(0, "<u1")
    quantization = table.table(4)
    scale = quantization.array(2, "<f4") if quantization else np.empty(0, "<f4")
    zero = quantization.array(3, "<i8") if quantization else np.empty(0, "<i8")
    values = None
    if len(raw) and table.number(1, "b") in DTYPES:
        values = raw.view(DTYPES[table.number(1, "b")]).reshape(shape)
        if len(scale):
            along = [1] * len(shape)
            along[quantization.number(6, "i")] = len(scale)
            values = (values.astype(np.float64) - zero.reshape(along)) * scale.reshape(along).astype(np.float64)
        values = values.astype(np.float32)
    return TfliteTensor(table.string(3), shape, values, scale if len(scale) else None, zero if len(zero) else None)


@dataclass(frozen=True)
class _Table:
    data: bytes
    at: int

    def _field(self, number: int) -> int:
        """Where field `number` lies; 0 where the table does not have it."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        entry = 4 + 2 * number
        if entry >= struct.unpack_from("<H", self.data, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", self.data, vtable + entry)[0]
        return self.at + offset if offset else 0

    def _follow(self, at: int) -> int:
        return at + struct.unpack_from("<I", self.data, at)[0]

    def number(self, field: int, kind: str) -> int:
        at = self._field(field)
        return struct.unpack_from("<" + kind, self.data, at)[0] if at else 0

    def array(self, field: int, dtype: str) -> np.ndarray:
        at = self._field(field)
        if not at:
            return np.empty(0, dtype)
        at = self._follow(at)
        return np.frombuffer(self.data, dtype, struct.unpack_from("<I", self.data, at)[0], at + 4)

    def string(self, field: int) -> str:
        return self.array(field, "<u1").tobytes().decode()

    def table(self, field: int) -> _Table | None:
        at = self._field(field)
        return _Table(self.data, self._follow(at)) if at else None

    def tables(self, field: int) -> list[_Table]:
        at = self._field(field)
        if not at:
            return []
        at = self._follow(at)
        count = struct.unpack_from("<I", self.data, at)[0]
        return [_Table(self.data, self._follow(at + 4 + 4 * i)) for i in range(count)]
