"""What a GPU would leave, made up: a check that runs on one, and what a C++ test program prints."""

import re
import types

import check
import origin

GOOGLETEST = """Running main() from gtest_main.cc
[==========] Running 4 tests from 1 test suite.
[----------] Global test environment set-up.
[ RUN      ] Cuda/S.A/Float
[       OK ] Cuda/S.A/Float (3 ms)
[ RUN      ] Cuda/S.B/Half
support/cases.h:20: Skipped
no GPU
[  SKIPPED ] Cuda/S.B/Half (0 ms)
[ RUN      ] S.C
parity_test.cpp:7: Failure
Value of: equal
said without an end of the line[  FAILED  ] S.C, where GetParam() = (4, "split") (12 ms)
[ RUN      ] S.D
[       OK ] S.D (0 ms)
[----------] 4 tests from S (15 ms total)
[==========] 4 tests from 1 test suite ran. (15 ms total)
[  PASSED  ] 2 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Cuda/S.B/Half
[  FAILED  ] 1 test, listed below:
[  FAILED  ] S.C, where GetParam() = (4, "split")

 1 FAILED TEST
"""
RAN = re.sub(r"\[  FAILED  \] S.*", "[       OK ] S.C (12 ms)", GOOGLETEST)
SKIPPED = RAN.replace("[       OK ]", "[  SKIPPED ]")
DEAD = GOOGLETEST.partition("[       OK ] S.D")[0]


def check_on_a_made_up_gpu(tmp_path, monkeypatch):
    """A check on a GPU that is not there."""
    device = types.SimpleNamespace(name="NVIDIA Chip 9", major=9, minor=0, total_memory=2**34,
                                   multi_processor_count=100)
    monkeypatch.setattr(origin.torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(origin.machine, "driver", lambda: "1.2.3")
    folders = [tmp_path / name for name in ("root", "build", "out", "work")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "build" / "test").mkdir()
    return check.Check(*folders)
