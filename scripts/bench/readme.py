"""Writes the tables of a result into README.md, between the two markers there.

Nothing in them is typed by hand: run it again after every measurement. Results with --calls are of
small tensors, where the call is the cost, and have a section of their own, in which every case is
shown; a result with --gpu has one that shows every operation. With --check nothing is written; the
exit status says whether the README shows the results.
"""

import argparse
import pathlib
import sys

import report
import store
from peers import TITLES
from summary import peers_of

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from marked_section import MarkedSection  # noqa: E402

SECTION = MarkedSection("benchmark", "scripts/bench/readme.py")
CALLS = MarkedSection("calls", "scripts/bench/readme.py --calls")
GPU = MarkedSection("gpu", "scripts/bench/readme.py --gpu")


def calls_section(records):
    lines = []
    for record in records:
        lines += [report.origin(record), "", *report.markdown_table(*report.cases_table(record)), ""]
    return "\n".join(lines)


def gpu_section(record):
    titles = [TITLES[name] for name in peers_of(store.contestants_of(record))]
    lines = [report.origin(record), "",
             f"{report.RATIOS} Peers: {', '.join(titles)}. Graph: the kernels alone, in a CUDA graph; "
             "call: as a user makes it. Cold: tensors take turns and are more than the L2 cache "
             "holds.", "", *report.missing(record), "",
             *report.markdown_table(*report.operations_table(record))]
    return "\n".join(lines) + "\n"


def by_threads(record):
    """The runs with each number of threads, and in words how many: too many for one table."""
    counts = list(dict.fromkeys(run["threads"] for run in record["runs"]))
    for count in counts:
        runs = [run for run in record["runs"] if run["threads"] == count]
        words = f", {count} thread{'' if count == 1 else 's'}" if len(counts) > 1 else ""
        yield {**record, "runs": runs}, words


def section(record):
    lines = [report.origin(record), "", report.LEGEND]
    for part, threads in by_threads(record):
        for scope, words in ((report.EVERYTHING, "All shapes"),
                             (report.BEYOND, "Tensors beyond the last-level cache")):
            header, rows, names = report.targets_table(part, scope)
            if rows:
                lines += ["", f"{words}{threads}:", "",
                          *report.markdown_table(header, rows, names)]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, nargs="+", metavar="RESULT.json")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--calls", action="store_true", help="write the section of small tensors")
    kind.add_argument("--gpu", action="store_true", help="write the section of a GPU")
    SECTION.add_arguments(parser)
    options = parser.parse_args(arguments)
    records = [store.load(path) for path in options.results]
    if options.calls:
        CALLS.write(calls_section(records), options)
    elif len(records) != 1:
        parser.error("without --calls there is one result")
    elif options.gpu:
        GPU.write(gpu_section(records[0]), options)
    else:
        SECTION.write(section(records[0]), options)


if __name__ == "__main__":
    main()
