"""ncu in scripts/gpu_check.sh: its commands, its table, and the prediction beside it."""

import json
import pathlib
import re
import sys

import pytest

from helpers import ROOT

import check
import process
import traffic
import traffic_case

NCU_HEAD = """==PROF== Connected to process 1234 (python3)
==PROF== Profiling "spin_kernel" - 0: 0%....50%....100% - 1 pass
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",\
"Grid Size","Device","CC","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum",\
"lts__t_bytes.sum"
"","","","","","","","","","","","byte","byte","ns","byte"
"""


def ncu_row(number, name, *values):
    cells = [number, 1234, "python3", "127.0.0.1", name, 1, 7, "(256, 1, 1)", "(99, 1, 1)", 0, "9.0",
             *values]
    return ",".join(f'"{cell}"' for cell in cells) + "\n"


SPIN = "at::cuda::(anonymous namespace)::spin_kernel(long)"
REDUCE = "void torchbn::cuda::reduce_channels_first<torchbn::cuda::MomentReduction<float, (int)4>>(T1)"
TRANSFORM = "void torchbn::cuda::transform<torchbn::cuda::Normalize<float, (int)4>>(T1)"
NCU = (NCU_HEAD + ncu_row(0, SPIN, 0, 0, "1,000", 32)
       + ncu_row(1, REDUCE, "1,048,576", 64, "12,000", "2,000,000")
       + ncu_row(2, TRANSFORM, 1000, 24, "3.5e+03", 100)
       + ncu_row(3, SPIN, 0, 0, 1000, 32) + ncu_row(4, "other(int)", 7, 8, 9, "n/a")
       + "==PROF== Disconnected from process 1234\n")


def test_kernels_between_two_marks_are_those_of_a_call():
    rows = traffic.rows_of(NCU)
    assert [len(call) for call in traffic.calls_of(rows)] == [2, 1]
    labels = [{"contestant": "torchbn", "operation": "train", "tensor_bytes": 1000},
              {"contestant": "aten", "operation": "backward", "tensor_bytes": 10}]
    ours, other = traffic.table(labels, rows)
    assert ours["dram"] == [1049576, 88] and ours["l2"] == 2000100
    assert ours["passes"] == [2000, 1000] and ours["least"] == [1000, 1000]
    assert [k["name"] for k in ours["kernels"]] == [
        "reduce_channels_first<MomentReduction<float, 4>>", "transform<Normalize<float, 4>>"]
    assert ours["kernels"][0]["microseconds"] == 12
    assert other["dram"] == [7, 8] and other["l2"] is None
    assert other["passes"] is None and other["least"] == [20, 10]
    with pytest.raises(ValueError, match="2 calls of 1"):
        traffic.table(labels[:1], rows)


def test_a_table_of_another_form_is_refused():
    assert traffic.rows_of("==PROF== nothing\n") == []
    with pytest.raises(ValueError, match=r"no column lts__t_bytes\.sum"):
        traffic.rows_of(NCU.replace("lts__t_bytes.sum", "other"))
    with pytest.raises(ValueError, match="in 'Kbyte' and not in bytes"):
        traffic.rows_of(NCU.replace('"byte","byte","ns"', '"Kbyte","byte","ns"'))


def test_ncu_is_started_on_the_calls_alone(made_up):
    line = traffic.command("ncu", made_up, "LABELS", "LOG")
    assert line[line.index("--metrics") + 1].split(",") == traffic.METRICS
    for option, value in (("--page", "raw"), ("--print-units", "base"), ("--cache-control", "none"),
                          ("--clock-control", "none"), ("--profile-from-start", "off"),
                          ("--log-file", "LOG")):
        assert line[line.index(option) + 1] == value
    assert line[line.index(sys.executable):][1:] == [
        str(ROOT / "scripts" / "gpu" / "traffic_case.py"), "--labels", "LABELS"]


def fake_ncu(monkeypatch, log, printed, status=0):
    def start(command, seconds, stdout, stderr):
        pathlib.Path(command[command.index("--log-file") + 1]).write_text(log)
        pathlib.Path(command[command.index("--labels") + 1]).write_text(json.dumps([
            {"contestant": name, "operation": "train", "tensor_bytes": 9} for name in "ab"]))
        stdout.write(printed)
        return status

    monkeypatch.setattr(traffic.shutil, "which", lambda *_, **__: "ncu")
    monkeypatch.setattr(process, "start", start)


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("output, reason", [
    ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
     "Performance Counters on the target device 0.", "ERR_NVGPUCTRPERM"),
    ("==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "LibraryNotLoaded")])
def test_ncu_without_counters_is_skipped(made_up, monkeypatch, output, reason, logged):
    fake_ncu(monkeypatch, output * logged, output * (not logged), status=1)
    assert reason in traffic.run(made_up)["skipped_because"]


def test_what_the_calls_print_is_none_of_ncus_table(made_up, monkeypatch):
    fake_ncu(monkeypatch, NCU, '"a line","in quotes"\nwithout cudnn: the layout is not supported\n')
    found = traffic.run(made_up)
    assert found["passed"] and [call["contestant"] for call in found["calls"]] == ["a", "b"]


def test_a_table_that_is_not_understood_is_a_failure_with_a_reason(made_up, monkeypatch):
    fake_ncu(monkeypatch, NCU.replace("lts__t_bytes.sum", "other"), "")
    assert not check.run(made_up, ["profile"], "c")
    record = json.loads((made_up.out / "gpu_profile_nvidia_chip_9.json").read_text())
    assert record["error"] == "ValueError: ncu's table has no column lts__t_bytes.sum"


def test_the_prediction_is_that_of_the_kernels():
    def passes(*kinds):
        return traffic.passes([f"void kernel<ns::{kind}<float, (int)4>>(T1)" for kind in kinds], 10)

    # Read once for the sums, and once more together with writing the result; or held on chip.
    assert passes("MomentReduction", "Normalize") == [20, 10]
    assert passes("GradientReduction", "InputGradient") == [40, 10]
    assert passes("TrainPass") == traffic.least("train", 10)
    assert passes("BackwardPass") == traffic.least("backward", 10)
    assert traffic.passes(["void ns::cooperative<ns::BackwardPass<float, (int)4>>(T1)"], 10) == [40, 10]
    assert passes("EvaluationReduction") == traffic.least("eval_backward", 10)
    split = {"train": ("MomentReduction", "Normalize"),
             "backward": ("GradientReduction", "InputGradient"), "eval": ("Normalize",),
             "eval_backward": ("GradientReduction", "Normalize")}
    for case in traffic_case.chosen(quick=False):
        assert sum(traffic.least(case.operation, case.tensor_bytes)) == case.minimal_bytes
        assert sum(passes(*split[case.operation])) * case.tensor_bytes / 10 >= case.minimal_bytes
    assert {c.operation for c in traffic_case.chosen(quick=True)} == set(traffic.LEAST)


def test_every_kind_of_kernel_has_a_prediction():
    sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").rglob("*")
                      if path.suffix in (".cu", ".h"))
    kinds = re.findall(r"struct (\w+(?:Reduction|Pass)|Normalize|InputGradient)\b", sources)
    assert set(kinds) == set(traffic.KERNELS)


def test_labels_are_those_of_the_contestants_that_work(monkeypatch):
    for name in ("synchronize", "_sleep"):
        monkeypatch.setattr(traffic_case.torch.cuda, name, lambda *_: None)
    for name in ("start", "stop"):
        monkeypatch.setattr(traffic_case.torch.cuda.profiler, name, lambda: None)

    def fails():
        raise RuntimeError("no luck")

    case = traffic_case.cases.Case((4, 3, 2), "channels_first", "float32", "eval_backward")
    contestants = [traffic_case.peers.OURS, traffic_case.peers.Peer("other", "Other", fails)]
    labels = traffic_case.count(case, contestants, "cpu")
    assert labels == [{"contestant": "torchbn", "operation": "eval_backward", "dtype": "float32",
                       "layout": "channels_first", "shape": "4x3x2", "tensor_bytes": 96}]
