"""Batch normalization: layers in torchbn.nn, torchbn.convert(model) and revert(model),
torchbn.batch_norm(...).

Importing torchbn loads its operators, torch.ops.torchbn.batch_norm and the others. A library that
the process has loaded already stays; else it is the file that the environment variable
TORCHBN_LIBRARY names or, where that is not set, lib/libtorchbn.so beside this file. If that file is
missing, importing fails.
"""

import os
import pathlib
import re

import torch


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _load_library() -> None:
    if hasattr(torch.ops.torchbn, "batch_norm"):
        return
    own = pathlib.Path(__file__).parent / "lib" / "libtorchbn.so"
    path = pathlib.Path(os.environ.get("TORCHBN_LIBRARY") or own)
    if not path.is_file():
        raise ImportError(f"torchbn: there is no library {path}: build it, or name one with the "
                          "environment variable TORCHBN_LIBRARY")
    # Before it is loaded, because torch would only say that it could not load it.
    built_with = re.search(rb"torchbn was built with torch ([0-9.]+)", path.read_bytes())
    if not built_with:
        raise ImportError(f"torchbn: {path} is not a torchbn library")
    version = built_with[1].decode()
    if _minor(version) != _minor(torch.__version__):
        raise ImportError(f"torchbn: {path} was built with torch {version} and works with no other "
                          f"minor version, but this is torch {torch.__version__}")
    torch.ops.load_library(path)


_load_library()

from torchbn import nn  # noqa: E402
from torchbn.functional import batch_norm  # noqa: E402
from torchbn.nn import convert, revert  # noqa: E402

__all__ = ["batch_norm", "convert", "nn", "revert"]
