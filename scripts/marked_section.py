"""A part of the README that a script writes, between two comments that name the script."""

import pathlib
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


class MarkedSection:
    def __init__(self, name, script):
        self.script = script
        self.begin = f"<!-- {name}: begin (written by {script}) -->"
        self.end = f"<!-- {name}: end -->"

    def replace(self, text, new):
        """The text with what is between the markers exchanged."""
        if (text.count(self.begin) != 1 or text.count(self.end) != 1
                or text.index(self.begin) > text.index(self.end)):
            raise SystemExit("the README needs these lines, once and in this order:\n"
                             f"{self.begin}\n{self.end}")
        before, rest = text.split(self.begin)
        _, after = rest.split(self.end)
        return f"{before}{self.begin}\n{new}{self.end}{after}"

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--readme", type=pathlib.Path, default=README, metavar="FILE",
                            help="another file than the repository's README.md")
        parser.add_argument("--check", action="store_true", help="write nothing")

    def write(self, new, options):
        """Writes the section, or with --check ends the program with what is out of date."""
        text = options.readme.read_text()
        replaced = self.replace(text, new)
        if options.check:
            sys.exit(f"{options.readme.name} is out of date: run {self.script}"
                     if replaced != text else 0)
        options.readme.write_text(replaced)
