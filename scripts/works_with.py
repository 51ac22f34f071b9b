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
CONSUMER_TEST = re.compile(r'^torchbn_add_(?:step|consumer)\(\w+ WORKS_WITH "([^"]+)"', re.MULTILINE)
SECTION = MarkedSection("works with", "scripts/works_with.py")


def titles(tree):
    """The arguments of every works_with(...) below this node of a syntax tree."""
    return [call.args[0].value for call in ast.walk(tree)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            and call.func.attr == "works_with"]


def titles_in_cmake(text):
    return CONSUMER_TEST.findall(text)


def titles_in_python(text):
    """Those of the tests' marks. The file's own count where there is a test in it."""
    module = ast.parse(text)
    of_file = [title for node in module.body if isinstance(node, ast.Assign)
               and any(getattr(target, "id", None) == "pytestmark" for target in node.targets)
               for title in titles(node)]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield from of_file
            for decorator in node.decorator_list:
                yield from titles(decorator)


def collect(tests=TESTS):
    """{title: [file below tests, ...]}, by title."""
    rows = {}
    for pattern, titles_in in (("python/test_*.py", titles_in_python),
                               ("consumer/CMakeLists.txt", titles_in_cmake)):
        for path in sorted(tests.glob(pattern)):
            file = path.relative_to(tests).as_posix()
            for title in dict.fromkeys(titles_in(path.read_text())):
                rows.setdefault(title, []).append(file)
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
