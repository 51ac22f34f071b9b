"""The memory of outputs on the CPU, which is used again from one call to the next."""

import sys

import pytest

from helpers import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems get torch's memory as it is")

# A training step makes two tensors of 64 MiB, which the C library would give back to the kernel.
STEPS = """
import gc, os, resource
import torch
from helpers import batch_norm
from torch.profiler import ProfilerActivity, profile

torch.ops.load_library(os.environ["TORCHBN_LIBRARY"])
torch.set_num_threads(2)
gc.disable()
torch.manual_seed(0)
x, dy = torch.randn(2, 16, 4, 64, 64, 128).unbind()
x.requires_grad_()

def step():
    y = batch_norm(x, training=True)
    return y.sum().item(), torch.autograd.grad(y, x, dy)[0].sum().item()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""


def run(code, **environment):
    result = run_python(STEPS + code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_later_steps_touch_no_fresh_memory():
    first, later = map(int, run("""
before = faults(); step(); first = faults() - before
step()
before = faults()
for _ in range(10): step()
print(first, faults() - before)
"""))
    assert first > 60, "two outputs of 32 huge pages each"
    assert later < first / 2


def test_a_process_with_small_tensors_only_touches_none_either():
    assert int(*run("""
x, dy = (torch.randn(16, 16, 32, 32).requires_grad_(), torch.randn(16, 16, 32, 32))
def steps(count):
    for _ in range(count):
        y = batch_norm(x, training=True)
        torch.autograd.grad(y, x, dy)
steps(10)
before = faults()
steps(20)
print(faults() - before)
""")) < 256, "the pages of one output"


def test_the_limit_can_be_set():
    unlimited, none = (run("print(*step()); before = faults(); step(); print(faults() - before)",
                           TORCHBN_RECYCLED_MIB=limit) for limit in ("512", "0"))
    assert unlimited[:2] == none[:2]
    assert int(none[2]) > 60 > int(unlimited[2])


def test_other_limits_are_refused_before_anything_is_touched():
    limits = ["", "-1", "many", "1.5", "12 MiB", "99999999999999999999"]
    assert run(f"""
mean = torch.ones(4)
for limit in {limits}:
    os.environ["TORCHBN_RECYCLED_MIB"] = limit
    try:
        batch_norm(x, running_mean=mean, running_var=torch.ones(4), training=True)
    except ValueError as error:
        print(f'TORCHBN_RECYCLED_MIB must be a number of mebibytes, 0 or more, but it is "{{limit}}"'
              in str(error) and mean.eq(1).all().item())
""") == ["True"] * len(limits)


def test_a_forked_process_goes_on():
    assert run("""
expected = step()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    x, dy = x[:2], dy[:2]
    y = batch_norm(x, training=True)
    os._exit(0 if torch.isfinite(y).all() else 1)
assert os.waitpid(child, 0)[1] == 0
print(step() == expected)
""") == ["True"]


def test_the_profiler_sees_the_tensor_and_not_what_is_kept():
    assert run("""
step()
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
    y = batch_norm(x.detach(), training=True)
    del y
made = [e.cpu_memory_usage for e in found.events() if e.name == "torchbn::batch_norm_train"]
freed = [e.cpu_memory_usage for e in found.events() if e.name == "[memory]"]
print(made[0] >= x.nbytes, sum(freed) <= -x.nbytes)
""") == ["True", "True"]
