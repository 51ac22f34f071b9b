"""Writes the tables of a result into README.md, between the two markers there.

Nothing in them is typed by hand: run it again after every measurement. With --check nothing is
written; the exit status says whether the README shows this result.
"""

import argparse
import pathlib
import sys

import report
import store

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from marked_section import MarkedSection  # noqa: E402

SECTION = MarkedSection("benchmark", "scripts/bench/readme.py")


def section(record):
    lines = [report.origin(record), "", report.LEGEND]
    for scope, words in ((report.EVERYTHING, "All shapes:"),
                         (report.BEYOND, "Tensors beyond the last-level cache:")):
        header, rows, names = report.targets_table(record, scope)
        if rows:
            lines += ["", words, "", *report.markdown_table(header, rows, names)]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path, metavar="RESULT.json")
    SECTION.add_arguments(parser)
    options = parser.parse_args(arguments)
    SECTION.write(section(store.load(options.result)), options)


if __name__ == "__main__":
    main()
