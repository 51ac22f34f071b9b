"""Draws pictures of a result.

  ratio_OPERATION.png   every shape's ratio to each peer, by layout and type
  roofline_TYPE.png     GB/s of the bytes that have to move, over the tensor's size

With several runs in the result each has its own pictures, named after it.
"""

import argparse
import pathlib

import cases
import machine
import matplotlib
import report
import store
from peers import TITLES
from summary import best_peer, peers_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

# Told apart by readers who see no red or no green as well.
COLOURS = {"floor": "#8c8c8c", "aten": "#e69f00", "native": "#f0e442", "inductor": "#56b4e9",
           "inductor_max": "#0072b2", "cudnn": "#009e73", "cudnn_persistent": "#cc79a7",
           "cudnn_graph": "#882255", "best": "#d55e00", "torchbn": "#00508c"}
MARKERS = {"channels_first": "o", "channels_last": "^"}
PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")


def words(name):
    return name.replace("_", " ")


def subtitle(record, run, mode):
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    return (f"{record['device_model']}, {threads}, allocation {run['malloc']}, "
            f"torch {record['versions']['torch'].partition('+')[0]}"
            f"{'' if mode == 'call' else f', {mode}'}")


def log_numbers(axis, subs=(1, 2, 5)):
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(PLAIN_NUMBERS)
    axis.set_minor_formatter(NullFormatter())


def keys_of(results, name):
    return list(dict.fromkeys(result[name] for result in results))


def ratio_panel(axes, results, shapes, peers):
    """One bar per shape and peer, from 1 outwards, with the interval of the ratio."""
    rows = {shape: row for row, shape in enumerate(shapes)}
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        shown = [r for r in results if peer in r["ratios"]]
        if not shown:
            continue
        where = [rows[r["shape"]] + (number - (len(peers) - 1) / 2) * height for r in shown]
        middle, low, high = zip(*(r["ratios"][peer] for r in shown), strict=True)
        axes.barh(where, [m - 1 for m in middle], height * 0.9, left=1, color=COLOURS[peer])
        axes.hlines(where, low, high, color="black", linewidth=0.7)
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)


def shape_labels(shapes, device):
    """Shapes with the set that they belong to, named at its first one."""
    labels, last = [], None
    for shape in shapes:
        name = cases.set_of(cases.parse_shape(shape), device)
        labels.append(f"{name}   {shape}" if name not in (last, "others") else shape)
        last = name
    return labels


def draw_ratios(record, run, results, path):
    operation, mode = results[0]["operation"], results[0]["mode"]
    shapes = keys_of(results, "shape")
    columns = [(layout, dtype) for layout in keys_of(results, "layout")
               for dtype in keys_of(results, "dtype")]
    peers = peers_of(store.contestants_of(record))
    # Limits for all panels alike, and 1 among them.
    ends = [end for r in results for peer in peers if peer in r["ratios"]
            for end in r["ratios"][peer][1:]] + [0.8, 1.25]
    figure, panels = plt.subplots(
        1, len(columns), sharey=True, squeeze=False, layout="constrained",
        figsize=(3.2 + 3 * len(columns), 2.2 + 0.15 * (1 + len(peers)) * len(shapes)))
    for axes, (layout, dtype) in zip(panels[0], columns, strict=True):
        inside = [r for r in results if (r["layout"], r["dtype"]) == (layout, dtype)]
        ratio_panel(axes, inside, shapes, peers)
        axes.set_xscale("log")
        axes.set_xlim(min(ends) / 1.1, max(ends) * 1.1)
        wide = max(ends) / min(ends)
        log_numbers(axes.xaxis, (1, 2, 5) if wide < 30 else (1, 3) if wide < 1000 else (1,))
        axes.set_title(f"{words(layout)}, {dtype}", fontsize=10)
        axes.set_xlabel("peer's time / torchbn's")
    first = panels[0][0]
    first.set_yticks(range(len(shapes)), shape_labels(shapes, record["device"]), fontsize=8)
    first.set_ylim(len(shapes) - 0.4, -0.6)
    figure.suptitle(f"{words(operation)}: right of the line torchbn is faster\n"
                    f"{subtitle(record, run, mode)}", fontsize=11)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[peer], label=TITLES[peer])
               for peer in peers]
    handles.append(Line2D([], [], color="black", linewidth=0.7, label="95% interval"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_roofline(record, run, results, path):
    operations = keys_of(results, "operation")
    figure, panels = plt.subplots(1, len(operations), sharey=True, squeeze=False,
                                  layout="constrained", figsize=(2 + 3.6 * len(operations), 5))
    cache = record["last_level_cache_bytes"]
    for axes, operation in zip(panels[0], operations, strict=True):
        for result in (r for r in results if r["operation"] == operation):
            size = report.case_of(result).tensor_bytes / 2**20
            for colour, name in (("floor", "floor"), ("best", best_peer(result)),
                                 ("torchbn", "torchbn")):
                axes.plot(size, report.gigabytes_per_second(result, name),
                          MARKERS[result["layout"]], color=COLOURS[colour], markersize=5,
                          alpha=0.8, markeredgewidth=0)
        if cache:
            axes.axvline(cache / 2**20, color="black", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        log_numbers(axes.yaxis)
        axes.xaxis.set_major_formatter(PLAIN_NUMBERS)
        axes.grid(alpha=0.3)
        axes.set_title(words(operation), fontsize=10)
        axes.set_xlabel("size of the tensor in MiB")
    panels[0][0].set_ylabel("GB/s of the bytes that have to move")
    handles = [Line2D([], [], color=COLOURS[c], marker="s", linestyle="", label=label)
               for c, label in (("floor", "floor (copy, sum)"), ("best", "best peer"),
                                ("torchbn", "torchbn"))]
    handles += [Line2D([], [], color="black", marker=MARKERS[layout], linestyle="",
                       label=words(layout)) for layout in keys_of(results, "layout")]
    if cache:
        handles.append(Line2D([], [], color="black", linestyle=":", linewidth=1,
                              label="last-level cache"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"{results[0]['dtype']}: {subtitle(record, run, results[0]['mode'])}",
                    fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(record, folder):
    """The paths of the pictures, drawn into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    kinds = (("ratio", "operation", draw_ratios), ("roofline", "dtype", draw_roofline))
    for run in record["runs"]:
        for mode in keys_of(run["results"], "mode"):
            ending = machine.slug(f"{report.label(run, record)} {'' if mode == 'call' else mode}")
            results = [r for r in run["results"] if r["mode"] == mode]
            for kind, field, draw_one in kinds:
                for value in keys_of(results, field):
                    name = "_".join(filter(None, [kind, value, ending]))
                    drawn.append(folder / f"{name}.png")
                    draw_one(record, run, [r for r in results if r[field] == value], drawn[-1])
    return drawn


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path, metavar="RESULT.json")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="where they go (default: beside the result)")
    options = parser.parse_args(arguments)
    for path in draw(store.load(options.result), options.out or options.result.parent):
        print(path.name)


if __name__ == "__main__":
    main()
