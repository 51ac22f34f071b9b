"""Writes the table "works with" into README.md, between the two markers there.

Every row is proved by tests, and made from them alone: a test in test/python/ that is marked
`works_with("...")`, or one of test/consumer/CMakeLists.txt that says WORKS_WITH "...", adds its file
to the row of that title. With --check nothing is written; the exit status says whether the README
shows the tests as they are.
"""

import argparse
import ast
import pathlib
import re

from marked_section import MarkedSection

TESTS = pathlib.Path(__file__).resolve().parents[1] / "test"
CONSUMER_TEST = re.compile(r'^torchbn_add_(?:step|consumer)\((\w+) WORKS_WITH "([^"]+)"', re.MULTILINE)
SECTION = MarkedSection("works with", "scripts/works_with.py")


def titles(tree):
    """The arguments of every works_with(...) below this node of a syntax tree."""
    return [call.args[0].value for call in ast.walk(tree)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            and call.func.attr == "works_with"]


def proofs_in_cmake(text):
    """(title, test's name) of each marked test, from top to bottom."""
    return [(title, name) for name, title in CONSUMER_TEST.findall(text)]


def proofs_in_python(text):
    """The same of Python."""
    module = ast.parse(text)
    of_file = [title for node in module.body if isinstance(node, ast.Assign)
               and any(getattr(target, "id", None) == "pytestmark" for target in node.targets)
               for title in titles(node)]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            of_test = [title for decorator in node.decorator_list for title in titles(decorator)]
            for title in dict.fromkeys(of_file + of_test):
                yield title, node.name


def collect(tests=TESTS):
    """{title: {file below tests: [test, ...]}}, by title."""
    rows = {}
    for pattern, proofs_in in (("python/test_*.py", proofs_in_python),
                               ("consumer/CMakeLists.txt", proofs_in_cmake)):
        for path in sorted(tests.glob(pattern)):
            file = path.relative_to(tests).as_posix()
            for title, name in proofs_in(path.read_text()):
                rows.setdefault(title, {}).setdefault(file, []).append(name)
    return dict(sorted(rows.items(), key=lambda row: row[0].lower()))


def section(rows):
    lines = ["| with | tested in |", "|---|---|"]
    for title, files in rows.items():
        links = [f"[{file.removeprefix('python/')}](test/{file})" for file in files]
        lines.append(f"| {title} | {', '.join(links)} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    SECTION.add_arguments(parser)
    SECTION.write(section(collect()), parser.parse_args(arguments))


if __name__ == "__main__":
    main()
