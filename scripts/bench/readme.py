"""Writes the tables of a result into README.md, between the two markers there.

Nothing in them is typed by hand: run it again after every measurement. With --check nothing is
written; the exit status says whether the README shows this result.
"""

import argparse
import pathlib
import sys

import report
import store

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"
BEGIN = "<!-- benchmark: begin (written by scripts/bench/readme.py) -->"
END = "<!-- benchmark: end -->"


def section(record):
    lines = [report.origin(record), "", report.LEGEND]
    for scope, words in ((report.EVERYTHING, "All shapes:"),
                         (report.BEYOND, "Tensors beyond the last-level cache:")):
        header, rows, names = report.targets_table(record, scope)
        if rows:
            lines += ["", words, "", *report.markdown_table(header, rows, names)]
    return "\n".join(lines) + "\n"


def replace(text, new):
    """The text with what is between the markers exchanged."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"the README needs these lines, once and in this order:\n{BEGIN}\n{END}")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{new}{END}{after}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path, metavar="RESULT.json")
    parser.add_argument("--readme", type=pathlib.Path, default=README, metavar="FILE",
                        help="another file than the repository's README.md")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    text = options.readme.read_text()
    new = replace(text, section(store.load(options.result)))
    if options.check:
        sys.exit(f"{options.readme.name} shows another result" if new != text else 0)
    options.readme.write_text(new)


if __name__ == "__main__":
    main()
