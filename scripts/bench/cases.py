"""What is measured: shapes, layouts, types and operations."""

import math
from dataclasses import dataclass

OPERATIONS = ["train", "train_step", "eval"]
LAYOUTS = ["channels_first", "channels_last"]
DTYPES = ["float32", "bfloat16"]
ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

# Networks' own shapes, then the awkward ones: few channels, odd planes, one dimension, speech,
# video, a single channel.
CPU_SHAPES = [
    (32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14),
    (32, 2048, 7, 7), (16, 144, 56, 56), (8, 7, 40, 40), (6, 3, 300, 300), (16, 16, 32, 32),
    (32, 64), (1024, 512), (100000, 64), (64, 80, 1000), (4, 32, 8, 28, 28), (64, 1, 28, 28),
]
CUDA_SHAPES = [
    (256, 64, 112, 112), (256, 256, 56, 56), (256, 512, 28, 28), (256, 1024, 14, 14),
    (256, 2048, 7, 7), *CPU_SHAPES, (20, 6, 65536), (64, 1, 224, 224), (8, 3, 512, 512),
]
QUICK_SHAPES = [(32, 1024, 14, 14), (16, 144, 56, 56), (8, 7, 40, 40), (32, 64), (1024, 512),
                (64, 80, 1000)]


@dataclass(frozen=True)
class Case:
    shape: tuple
    layout: str
    dtype: str
    operation: str

    @property
    def name(self):
        return f"{shape_name(self.shape)} {self.layout} {self.dtype} {self.operation}"

    @property
    def tensor_bytes(self):
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]

    @property
    def minimal_bytes(self):
        """What has to move even if nothing is read twice: x and y; in backward x, dy and dx."""
        return self.tensor_bytes * (5 if self.operation == "train_step" else 2)


def shape_name(shape):
    return "x".join(map(str, shape))


def parse_shape(text):
    sizes = tuple(int(size) for size in text.split("x"))
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"a shape is N x C [x ...], such as 32x64x7x7, not {text!r}")
    return sizes


def layouts_of(shape):
    """With one channel or one value per plane both layouts are the same memory."""
    return LAYOUTS if shape[1] > 1 and math.prod(shape[2:]) > 1 else LAYOUTS[:1]


def select(device, *, quick=False, shapes=None, layouts=None, dtypes=None, operations=None):
    """The cases of a run; what is not given is everything, or float32 alone in a quick run."""
    known = QUICK_SHAPES if quick else CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    return [Case(shape, layout, dtype, operation)
            for dtype in dtypes or (DTYPES[:1] if quick else DTYPES)
            for operation in operations or OPERATIONS
            for shape in shapes or known
            for layout in layouts_of(shape) if layout in (layouts or LAYOUTS)]
