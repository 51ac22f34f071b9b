"""Writes the table "works with" into README.md, between the two markers there.

Every row is proved by tests, and made from them alone: a test in test/python/ that is marked
`works_with("...")` adds its name, read as a sentence, to the row of that title. With --check nothing
is written; the exit status says whether the README shows the tests as they are.
"""

import argparse
import ast
import pathlib

from marked_section import MarkedSection

TESTS = pathlib.Path(__file__).resolve().parents[1] / "test" / "python"
SECTION = MarkedSection("works with", "scripts/works_with.py")


def titles(tree):
    """The arguments of every works_with(...) below this node of a syntax tree."""
    return [call.args[0].value for call in ast.walk(tree)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            and call.func.attr == "works_with"]


def proofs_in(path):
    """(title, test's name) of each marked test in the file, from top to bottom."""
    module = ast.parse(path.read_text())
    of_file = [title for node in module.body if isinstance(node, ast.Assign)
               and any(getattr(target, "id", None) == "pytestmark" for target in node.targets)
               for title in titles(node)]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            of_test = [title for decorator in node.decorator_list for title in titles(decorator)]
            for title in dict.fromkeys(of_file + of_test):
                yield title, node.name


def collect(folder=TESTS):
    """{title: {file: [test, ...]}}, by title."""
    rows = {}
    for path in sorted(folder.glob("test_*.py")):
        for title, name in proofs_in(path):
            rows.setdefault(title, {}).setdefault(path.name, []).append(name)
    return dict(sorted(rows.items(), key=lambda row: row[0].lower()))


def section(rows):
    lines = ["| with | what is tested |", "|---|---|"]
    for title, files in rows.items():
        cells = ["; ".join(name.removeprefix("test_").replace("_", " ") for name in names)
                 + f" ([{file}](test/python/{file}))" for file, names in files.items()]
        lines.append(f"| {title} | {'<br>'.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    SECTION.add_arguments(parser)
    SECTION.write(section(collect()), parser.parse_args(arguments))


if __name__ == "__main__":
    main()
