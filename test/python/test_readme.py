"""The Python in README.md runs as it stands, block after block, and its table of tests is current."""

import re

import pytest

from helpers import ROOT, run_python

import works_with

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_readme_run_in_order(tmp_path):
    blocks = FENCE.findall((ROOT / "README.md").read_text())
    assert blocks
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks))
    result = run_python(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')")
    assert result.returncode == 0, result.stderr


def test_the_table_of_what_works_with_torchbn_is_current():
    with pytest.raises(SystemExit) as ended:
        works_with.main(["--check"])
    assert not ended.value.code, ended.value.code


def test_rows_come_from_the_marks_of_files_tests_parameters_and_projects(tmp_path):
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "test_some.py").write_text("""
import pytest
pytestmark = [pytest.mark.works_with("files"), pytest.mark.other("x")]

@pytest.mark.parametrize("a", [pytest.param(1, marks=pytest.mark.works_with("Parameters"))])
def test_first_thing(a): ...

def test_second(): ...

@pytest.mark.works_with("tests")
def helper(): ...
""")
    (tmp_path / "consumer").mkdir()
    (tmp_path / "consumer" / "CMakeLists.txt").write_text("""
torchbn_add_step(first_step WORKS_WITH "files"
  COMMAND some)
torchbn_add_consumer(unmarked PROJECT some)
torchbn_add_consumer(a_project WORKS_WITH "projects" PROJECT some)
""")
    rows = works_with.collect(tmp_path)
    assert rows == {
        "files": ["python/test_some.py", "consumer/CMakeLists.txt"],
        "Parameters": ["python/test_some.py"], "projects": ["consumer/CMakeLists.txt"]}
    assert works_with.section(rows) == """\
| with | tested in |
|---|---|
| files | [test_some.py](test/python/test_some.py), [consumer/CMakeLists.txt](test/consumer/CMakeLists.txt) |
| Parameters | [test_some.py](test/python/test_some.py) |
| projects | [consumer/CMakeLists.txt](test/consumer/CMakeLists.txt) |
"""
