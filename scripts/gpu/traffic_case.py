"""The calls whose bytes traffic.py has counted; to be run under ncu."""

import argparse
import json
import pathlib
import sys

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import bench  # noqa: E402
import cases  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import problem  # noqa: E402

# Beyond every L2 and within it; planes of full vectors and of single values; few channels.
SHAPES = [(32, 256, 56, 56), (128, 256, 56, 56), (32, 1024, 14, 14), (32, 2048, 7, 7),
          (20, 6, 65536)]
QUICK_SHAPES = SHAPES[:1]
DTYPE = "bfloat16"


def chosen(quick):
    return cases.select("cuda", shapes=QUICK_SHAPES if quick else SHAPES, dtypes=[DTYPE])


def label(case, name):
    return {"contestant": name, "operation": case.operation, "dtype": case.dtype,
            "layout": case.layout, "shape": cases.shape_name(case.shape),
            "tensor_bytes": case.tensor_bytes}


def count(case, contestants, device="cuda"):
    """Calls every contestant once between marks; the labels of those that were."""
    labels = []
    asked = problem.Problem(case, device)
    for peer in contestants:
        try:
            call = asked.contestant(peer.prepare())
            call()  # allocates and chooses kernels
        except Exception as error:
            print(f"{case.name}: without {peer.name}: {machine.brief_error(error)}", file=sys.stderr)
            continue
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        torch.cuda._sleep(1)
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        labels.append(label(case, peer.name))
    return labels


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    bench.load_library()
    names = ["aten"] if options.quick else peers.names_of("cuda", compiles=False)
    others, _ = peers.choose(names, "cuda")
    labels = [entry for case in chosen(options.quick)
              for entry in count(case, [peers.OURS, *others])]
    options.labels.write_text(json.dumps(labels))


if __name__ == "__main__":
    main()
