"""A network as a graph of ONNX: the few parts of that format that it takes, written as protocol buffers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

IR_VERSION, OPERATORS = 8, 13  # of 2021: any ONNX Runtime reads them
INPUT, OUTPUT = "patches", "features"
FLOAT, UINT8, INT64 = 1, 2, 7  # types of tensors
TYPES = {"float32": FLOAT, "uint8": UINT8, "int64": INT64}


class Graph:
    """Takes uint8 patches, (b, size, size, 3), as they are read; operators are added one by one.

    Parameters
    ----------
    size
        Side of the patches in pixels.
    """

    def __init__(self, size: int):
        self.size, self._nodes, self._constants, self._count = size, [], [], 0

    def constant(self, values) -> str:
        """The name of an array that does not change."""
        values, name = np.ascontiguousarray(values), self._name()
        tensor = [_number(1, n) for n in values.shape] + [_number(2, TYPES[str(values.dtype)])]
        self._constants.append(b"".join([*tensor, _part(8, name), _part(9, values.tobytes())]))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """The name of what an operator makes of its inputs; attributes are whole numbers, lists of them, or words."""
        name = output or self._name()
        parts = [_part(1, one) for one in inputs] + [_part(2, name), _part(4, operator)]
        self._nodes.append(b"".join(parts + [_part(5, _attribute(*one)) for one in attributes.items()]))
        return name

    def to_bytes(self, features: int) -> bytes:
        """The model; an operator has made ``OUTPUT``, float32, (b, features)."""
        parts = [_part(1, node) for node in self._nodes] + [_part(2, "encoder")]
        parts += [_part(5, tensor) for tensor in self._constants]
        parts.append(_part(11, _described(INPUT, UINT8, (self.size, self.size, 3))))
        parts.append(_part(12, _described(OUTPUT, FLOAT, (features,))))
        graph = b"".join(parts)
        return _number(1, IR_VERSION) + _part(8, _number(2, OPERATORS)) + _part(7, graph)

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def efficientnet_graph(backbone, size: int) -> bytes:
    """The graph of `snrmix.images.encoders.efficientnet_lite0`, whose batch norms are folded.

    Parameters
    ----------
    backbone
        ``efficientnet_lite_pytorch.EfficientNet``.
    size
        Side of the patches in pixels.
    """
    graph = Graph(size)
    pixels = graph.add("Transpose", graph.add("Cast", INPUT, to=FLOAT), perm=[0, 3, 1, 2])
    centred = graph.add("Sub", pixels, graph.constant(np.float32(127)))
    x = graph.add("Div", centred, graph.constant(np.float32(128)))
    bounds = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def convolve(conv, x: str, bounded: bool = True) -> str:
        weights = [graph.constant(values.detach().cpu().numpy()) for values in (conv.weight, conv.bias)]
        how = {"kernel_shape": list(conv.kernel_size), "strides": list(conv.stride), "group": conv.groups}
        x = graph.add("Conv", x, *weights, auto_pad="SAME_UPPER", **how)
        return graph.add("Clip", x, *bounds) if bounded else x

    x = convolve(backbone._conv_stem, x)
    for block in backbone._blocks:
        how, y = block._block_args, x
        if how.expand_ratio != 1:
            y = convolve(block._expand_conv, y)
        y = convolve(block._project_conv, convolve(block._depthwise_conv, y), bounded=False)
        stays = block.id_skip and how.stride == 1 and how.input_filters == how.output_filters
        x = graph.add("Add", y, x) if stays else y
    x = convolve(backbone._conv_head, x)
    graph.add("ReduceMean", x, output=OUTPUT, axes=[2, 3], keepdims=0)
    return graph.to_bytes(backbone._conv_head.out_channels)


def _attribute(name: str, value) -> bytes:
    if isinstance(value, str):
        return _part(1, name) + _part(4, value) + _number(20, 3)
    if isinstance(value, Iterable):
        return _part(1, name) + b"".join(_number(8, n) for n in value) + _number(20, 7)
    return _part(1, name) + _number(3, value) + _number(20, 2)


def _described(name: str, kind: int, shape: tuple[int, ...]) -> bytes:
    """An input or output; its first axis, of any length, is called b."""
    axes = b"".join(_part(1, axis) for axis in [_part(2, "b"), *(_number(1, n) for n in shape)])
    return _part(1, name) + _part(2, _part(1, _number(1, kind) + _part(2, axes)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; all but the last have the eighth set."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
