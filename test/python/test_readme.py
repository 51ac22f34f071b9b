"""The Python in README.md runs as it stands, block after block."""

import re

import pytest

from helpers import ROOT, library_path, run_python

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    return FENCE.findall(text)


def test_only_blocks_marked_as_python_are_found():
    text = "a\n```python\nx = 1\n```\n```bash\nls\n```\n```\ny\n```\n```python\nz = x\n```\n"
    assert python_blocks(text) == ["x = 1\n", "z = x\n"]


def test_the_blocks_of_the_readme_run_in_order(tmp_path):
    readme = ROOT / "README.md"
    blocks = python_blocks(readme.read_text()) if readme.is_file() else []
    if not blocks:
        pytest.skip("README.md has no Python in it")
    # The blocks name the library as a reader in the repository's folder would.
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "libtorchbn.so").symlink_to(
        library_path().resolve())
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks))
    result = run_python(f"import os, runpy; os.chdir({str(tmp_path)!r}); "
                        f"runpy.run_path('readme.py', run_name='__main__')")
    assert result.returncode == 0, result.stderr
