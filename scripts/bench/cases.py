"""What is measured: shapes, layouts, types and operations."""

import math
from dataclasses import dataclass

# Tensors of the input's size that have to move even if nothing is read twice: x and y forward; x,
# dy and dx backward, in evaluation as well because the gradient of weight wants x.
TENSORS_MOVED = {"train": 2, "backward": 3, "train_step": 5, "eval": 2, "eval_backward": 3}
OPERATIONS = list(TENSORS_MOVED)
LAYOUTS = ["channels_first", "channels_last"]
DTYPES = ["float32", "bfloat16"]
CUDA_DTYPES = [*DTYPES, "float16"]
ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

# Shapes by the set that they are reported with.
CPU_SETS = {
    # One of every stage of ResNet-50: planes shrink as channels grow.
    "ResNet-50": [(32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 1024, 14, 14),
                  (32, 2048, 7, 7)],
    # Expanded channels of EfficientNet-B0's blocks, at the batch sizes of training and fine-tuning.
    "EfficientNet-B0": [(32, 96, 112, 112), (16, 144, 56, 56), (20, 1152, 7, 7)],
    # DenseNet-121: a bottleneck, what a block has gathered half-way, and the last norm.
    "DenseNet-121": [(32, 128, 56, 56), (32, 480, 14, 14), (32, 1024, 7, 7)],
    # DeepLab on crops of 513 x 513: odd planes, and one channel per class.
    "segmentation": [(8, 256, 129, 129), (4, 21, 129, 129)],
    # A 3-D ResNet on clips of 16 frames, and a lighter one.
    "video": [(4, 64, 16, 56, 56), (8, 256, 4, 14, 14), (4, 32, 8, 28, 28)],
    # Rows of a table, from the head of a classifier to all the points of a cloud.
    "N x C": [(32, 64), (1024, 512), (100_000, 64), (1_000_000, 64)],
    # Mel bands, a conformer's convolution module, a convolutional recogniser: odd lengths.
    "speech": [(64, 80, 1000), (16, 512, 399), (32, 256, 801)],
    # Digits and radiographs.
    "one channel": [(64, 1, 28, 28), (16, 1, 512, 512)],
    # Colour images, and few channels on planes of awkward sizes.
    "few channels": [(6, 3, 300, 300), (8, 7, 40, 40), (20, 6, 65536)],
    # The last stages of a net, an image or two at a time: channels cost more than their values.
    "few images": [(1, 1024, 4, 4), (2, 512, 8, 8)],
    # Where the call itself is the cost.
    "small": [(16, 16, 32, 32)],
}
CUDA_SETS = {
    "ResNet-50": [(128, *shape[1:]) for shape in CPU_SETS["ResNet-50"]],
    "ResNet-50, batch 32": CPU_SETS["ResNet-50"],
    "MobileNetV2": [(128, 96, 112, 112), (128, 192, 28, 28), (128, 960, 7, 7)],
    "EfficientNet-B0": [(128, 144, 56, 56), (16, 144, 56, 56), (128, 1152, 7, 7)],
    "segmentation": [(8, 256, 129, 129), (4, 21, 129, 129)],
    "video": [(8, 64, 16, 56, 56), (4, 32, 8, 28, 28)],
    "N x C": [(32, 64), (8192, 1024), (100_000, 64), (1_000_000, 64)],
    "N x C x L": [(64, 80, 1000), (32, 256, 801)],
    "one channel": [(64, 1, 28, 28), (64, 1, 224, 224)],
    "few channels": [(6, 3, 300, 300), (8, 7, 40, 40), (20, 6, 65536), (8, 3, 512, 512)],
    "small": [(16, 16, 32, 32)],
}
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
        return self.tensor_bytes * TENSORS_MOVED[self.operation]

    @property
    def graphs(self):
        """How many graphs a compiler makes of it; those of a step are those of backward."""
        return {"train": 1, "backward": 2, "train_step": 0, "eval": 1,
                "eval_backward": 2}[self.operation]


def shape_name(shape):
    return "x".join(map(str, shape))


def parse_shape(text):
    try:
        sizes = tuple(int(size) for size in text.split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"a shape is N x C [x ...], such as 32x64x7x7, not {text!r}")
    return sizes


def shapes_of(device):
    return [shape for shapes in (CUDA_SETS if device == "cuda" else CPU_SETS).values()
            for shape in shapes]


def set_of(shape, device):
    """The name of the set that lists the shape."""
    for name, shapes in (CUDA_SETS if device == "cuda" else CPU_SETS).items():
        if shape in shapes:
            return name
    return "others"


def layouts_of(shape):
    """With one channel or one value per plane both layouts are the same memory."""
    return LAYOUTS if shape[1] > 1 and math.prod(shape[2:]) > 1 else LAYOUTS[:1]


def operations_of(device):
    """Those that are measured unless others are asked for."""
    return [o for o in OPERATIONS if o != ("eval_backward" if device == "cpu" else "train_step")]


def select(device, *, quick=False, shapes=None, layouts=None, dtypes=None, operations=None):
    """The cases of a run; what is not given is everything, or float32 alone in a quick run."""
    return [Case(shape, layout, dtype, operation)
            for dtype in dtypes or (DTYPES[:1] if quick else
                                    CUDA_DTYPES if device == "cuda" else DTYPES)
            for operation in operations or operations_of(device)
            for shape in shapes or (QUICK_SHAPES if quick else shapes_of(device))
            for layout in layouts_of(shape) if layout in (layouts or LAYOUTS)]
