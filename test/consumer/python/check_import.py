"""What `import torchbn` does with a good library, a wrong one and none: check_import.py PACKAGE LIBRARY"""

import importlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

import torch


def import_torchbn(library):
    os.environ.pop("TORCHBN_LIBRARY", None)
    if library:
        os.environ["TORCHBN_LIBRARY"] = str(library)
    sys.modules.pop("torchbn", None)
    return importlib.import_module("torchbn")


def check_refused(library, reason):
    try:
        import_torchbn(library)
    except ImportError as error:
        assert re.search(reason, str(error)), error
        assert "\n" not in str(error)
        assert not hasattr(torch.ops.torchbn, "batch_norm")
    else:
        raise AssertionError(f"imported, where this was expected: {reason}")


def main(package, library, folder):
    # The package as it is installed, with the library inside.
    installed = folder / "torchbn"
    shutil.copytree(package, installed)
    sys.path.insert(0, str(folder))

    check_refused(None, f"there is no library {installed}/lib/libtorchbn.so")
    check_refused(folder / "none.so", f"there is no library {folder}/none.so")
    (folder / "text.so").write_text("no library")
    check_refused(folder / "text.so", "text.so is not a torchbn library")
    minor = re.match(r"\d+\.\d+", torch.__version__)[0].encode()
    marked, other = b"built with torch " + minor, b"built with torch 1.99"
    contents = library.read_bytes()
    assert contents.count(marked) == 1
    (folder / "other.so").write_bytes(contents.replace(marked, other))
    check_refused(folder / "other.so", r"other.so was built with torch 1\.99\.\d+ and works with no "
                  rf"other minor version, but this is torch {re.escape(torch.__version__)}$")

    (installed / "lib").mkdir()
    (installed / "lib" / "libtorchbn.so").symlink_to(library)
    import_torchbn(None)
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(torch.ops.torchbn.batch_norm(x, training=True),
                               torch.nn.functional.batch_norm(x, None, None, training=True))
    import_torchbn(folder / "none.so")  # not needed any more


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(folder))
