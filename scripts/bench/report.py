"""The tables: every case, and the targets that groups of cases are judged by."""

import cases
from peers import TITLES
from store import contestants_of
from summary import best_peer, geometric_mean, headline, peers_of

EVERYTHING, BEYOND = "everything", "beyond the last-level cache"


def case_of(result):
    return cases.Case(cases.parse_shape(result["shape"]), result["layout"], result["dtype"],
                      result["operation"])


def label(run, record):
    """What sets a run apart from the record's others; nothing where it is the only one."""
    runs = record["runs"]
    parts = []
    if len({r["malloc"] for r in runs}) > 1:
        parts.append(run["malloc"])
    if len({r["threads"] for r in runs}) > 1:
        parts.append("1 thread" if run["threads"] == 1 else f"{run['threads']} threads")
    return ", ".join(parts)


def groups_of(results, key):
    groups = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def judge(results):
    """The geometric mean never without the worst case. Lost: even the interval's end is below 1."""
    worst = min(results, key=lambda r: headline(r)[0])
    floors = [r["ratios"]["floor"][0] for r in results]
    return {"cases": len(results),
            "mean": round(geometric_mean(headline(r)[0] for r in results), 3),
            "worst": headline(worst)[0], "worst_case": f"{worst['shape']} {worst['layout']}",
            "of_floor": round(geometric_mean(floors), 3), "least_of_floor": min(floors),
            "lost": sum(headline(r)[2] < 1 for r in results)}


def targets(record):
    """Per run, named by its number, scope, and group of operation, layout and type."""
    cache = record["last_level_cache_bytes"]
    scopes = {EVERYTHING: lambda case: True}
    if cache:
        scopes[BEYOND] = lambda case: case.tensor_bytes > cache
    lines = []
    for number, run in enumerate(record["runs"]):
        for scope, inside in scopes.items():
            results = [r for r in run["results"] if inside(case_of(r))]
            groups = groups_of(results,
                               lambda r: (r["operation"], r["layout"], r["dtype"], r["mode"]))
            for (operation, layout, dtype, mode), group in groups.items():
                lines.append({"run": number, "scope": scope, "operation": operation,
                              "layout": layout, "dtype": dtype, "mode": mode, **judge(group)})
    return lines


def percent(ratio):
    return f"{100 * ratio:.0f}%"


def judged_columns(brief):
    """Names and cells of a judgement; brief beside those of other runs."""
    columns = {"mean": lambda g: f"{g['mean']:.2f}", "worst": lambda g: f"{g['worst']:.2f}",
               "worst case": lambda g: g["worst_case"],
               "lost": lambda g: f"{g['lost']} of {g['cases']}",
               "of floor": lambda g: percent(g["of_floor"]),
               "least of floor": lambda g: percent(g["least_of_floor"])}
    for name in ("worst case", "least of floor") if brief else ():
        del columns[name]
    return columns


def beside(record, names, columns, entries):
    """A table whose rows begin with the names' values and go on with the columns of each run.
    entries: (number of the run, names' values, what the columns' functions take)"""
    runs = record["runs"]
    header, rows = list(names), {}
    for run in runs:
        mark = label(run, record)
        header += [f"{mark}\n{column}" if mark else column for column in columns]
    for number, key, value in entries:
        row = rows.setdefault(key, [*key, *["-"] * (len(columns) * len(runs))])
        start = len(names) + number * len(columns)
        row[start:start + len(columns)] = [cell(value) for cell in columns.values()]
    return header, list(rows.values()), len(names)


def several_modes(record):
    return len({r["mode"] for run in record["runs"] for r in run["results"]}) > 1


def targets_table(record, scope):
    names = ["operation", "layout", "dtype", *(["mode"] if several_modes(record) else [])]
    entries = [(t["run"], tuple(t[name] for name in names), t) for t in targets(record)
               if t["scope"] == scope]
    return beside(record, names, judged_columns(len(record["runs"]) > 1), entries)


def judged_table(record, before=None):
    """A judgement of every operation, over both layouts and all types. before: {name of a column:
    its cell for a result}, by which results are told apart as well."""
    before = before or {}
    names = ["operation", *(["mode"] if several_modes(record) else [])]
    entries = []
    for number, run in enumerate(record["runs"]):
        groups = groups_of(run["results"], lambda r: (*(cell(r) for cell in before.values()),
                                                      *(r[name] for name in names)))
        entries += [(number, key, judge(group)) for key, group in groups.items()]
    return beside(record, [*before, *names], judged_columns(len(record["runs"]) > 1), entries)


def operations_table(record):
    """Over all shapes."""
    return judged_table(record)


def sets_table(record):
    """Per set of shapes."""
    return judged_table(record, {
        "set": lambda r: cases.set_of(cases.parse_shape(r["shape"]), record["device"])})


def duration(microseconds):
    for unit, scale in (("s", 1e-6), ("ms", 1e-3), ("us", 1)):
        if microseconds * scale >= 1:
            return f"{microseconds * scale:.3g} {unit}"
    return f"{microseconds:.2g} us"


def gigabytes_per_second(result, contestant="torchbn"):
    """Of the bytes that have to move."""
    return case_of(result).minimal_bytes / result["microseconds"][contestant][0] / 1e3


def case_columns(contestants, brief):
    """Names and cells of a case in one run; beside those of other runs only torchbn's time.
    "ATen /" is ATen's time / torchbn's."""
    def time(name):
        return lambda r: duration(r["microseconds"][name][0]) if name in r["microseconds"] else "-"

    def ratio(name):
        return lambda r: f"{r['ratios'][name][0]:.2f}" if name in r["ratios"] else "-"

    def interval(result):
        _, low, high = headline(result)
        return f"{low:.2f} to {high:.2f} ({TITLES[best_peer(result)]})"

    return {**{TITLES[name]: time(name) for name in (["torchbn"] if brief else contestants)},
            "GB/s": lambda r: f"{gigabytes_per_second(r):.1f}",
            "of floor": lambda r: percent(r["ratios"]["floor"][0]),
            **{f"{TITLES[name]} /": ratio(name) for name in peers_of(contestants)},
            "best peer /, 95%": interval}


def cases_table(record):
    names = ["operation", "dtype", "shape", "layout",
             *(["mode"] if several_modes(record) else [])]
    entries = [(number, tuple(result[name] for name in names), result)
               for number, run in enumerate(record["runs"]) for result in run["results"]]
    columns = case_columns(contestants_of(record), len(record["runs"]) > 1)
    return beside(record, names, columns, entries)


def markdown_table(header, rows, names):
    """The first columns are names, the others numbers."""
    return ["| " + " | ".join(header).replace("\n", "<br>") + " |",
            "|" + "---|" * names + "---:|" * (len(header) - names),
            *("| " + " | ".join(row) + " |" for row in rows)]


def plain_table(header, rows, names):
    # A column of a run has the run's name above its own.
    heads = [cell.rpartition("\n")[::2] for cell in header]
    lines = [[above for above, _ in heads]] if any(above for above, _ in heads) else []
    lines += [[name for _, name in heads], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return ["  ".join(cell.ljust(w) if i < names else cell.rjust(w)
                      for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in lines]


def origin(record):
    """The command, the machine and the settings, in one sentence."""
    threads = " and ".join(dict.fromkeys(str(run["threads"]) for run in record["runs"]))
    malloc = " and ".join(dict.fromkeys(run["malloc"] for run in record["runs"]))
    load = record["load_average"][0]
    return (f"`{record['command']}` on {record['device_model']}, {threads} "
            f"thread{'' if threads == '1' else 's'}{', pinned' if record['pinned'] else ''}, "
            f"torch {record['versions']['torch']}, allocation {malloc}, cache "
            f"{record['cache'].split(':')[0]}"
            f"{f', load average before it began {load}' if load is not None else ''}.")


RATIOS = ("Ratios are a peer's time / torchbn's, above 1 where torchbn is faster; those without "
          "a name are against the best peer of a case. \"of floor\": the floor's time / torchbn's. "
          "Mean: the geometric one. Lost: the whole interval lies below 1.")
LEGEND = (f"{RATIOS} Allocation default: "
          "outputs come as each library allocates them. Those of floor and peers are often fresh "
          "pages, which take time; torchbn's are recycled (see Memory in the README), hence more "
          "than 100% of floor. Allocation warm: the C library keeps freed memory, so that nobody "
          "pays for pages.")


def notes(record):
    return list(dict.fromkeys(note for run in record["runs"] for note in run["notes"]))


def missing(record):
    """Sentences on what has no results."""
    for run in record["runs"]:
        for failure in run.get("failed", []):
            yield f"FAILED: {failure['case']}: {failure['why']}"
        left_out = run.get("left_out")
        if left_out:
            yield f"Left out: {len(left_out)} cases, from {left_out[0]} on"


def sections(record):
    """Title and table of each part."""
    yield "Every case", cases_table(record)
    yield "Sets", sets_table(record)
    for scope in (EVERYTHING, BEYOND):
        table = targets_table(record, scope)
        if table[1]:
            yield f"Targets, {scope}", table


def text(record, markdown=False):
    draw = markdown_table if markdown else plain_table
    lines = [origin(record) if markdown else origin(record).replace("`", ""), "", LEGEND,
             *(f"Note: {note}." for note in notes(record)), *missing(record)]
    for title, table in sections(record):
        lines += ["", f"### {title}" if markdown else f"{title}:", "", *draw(*table)]
    return "\n".join(lines) + "\n"
