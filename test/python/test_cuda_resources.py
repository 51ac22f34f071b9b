"""What the compiler has made of the kernels: registers, shared memory, nothing spilled."""

import re

import pytest

from helpers import ROOT, library_path

import kernel_names
import resources

WIDTHS = {"float": (1, 4), "double": (1, 2), "BFloat16": (1, 4, 8), "Float16": (1, 4, 8)}
REDUCTIONS = "MomentReduction", "GradientReduction", "EvaluationReduction"
TRANSFORMS = "Normalize", "InputGradient"
FOLDS = "RunningStatisticsFold", "EvaluationGradientFold"
PASSES = "TrainPass", "BackwardPass"  # of resident and cooperative kernels
MAIN = "reduce|transform|fold_and_transform|sum_gradients|resident|cooperative"

# Bytes of stack that are known of. Four lanes of half types in the registers of three blocks: on an
# H200 that is faster than eight lanes in those of two, without any. In the others what runs once per
# channel, in double, is what lacks a register or two, or numbers wait that a thread has from its
# beginning and reads once, behind the sums.
KNOWN_STACK = {r"reduce_channels_last<\w+<B?Float16, 4>>": 56,
               r"reduce_channels_last<(Gradient|Evaluation)Reduction<float, 4>>": 8,
               r"fold_and_transform<.*, ChannelsLastTiling>": 16,
               r"fold_and_transform<Normalize<double, 2>, .*, ChannelsFirstTiling>": 8,
               r"fold_and_transform<Normalize<double, 2>, Eval.*, ChannelsLastTiling>": 24,
               r"cooperative<BackwardPass<float, 4>, ChannelsLastTiling>": 8,
               r"cooperative<TrainPass<B?Float16, 4>, ChannelsLastTiling>": 24}


def all_kernels():
    """Every instance that the launch policy can ask for."""
    for value, widths in WIDTHS.items():
        across = min(widths[-1], 4)
        compute = "double" if value == "double" else "float"
        for op in REDUCTIONS:
            yield from (f"reduce_channels_first<{op}<{value}, {w}>>" for w in widths)
            yield f"reduce_channels_last<{op}<{value}, {across}>>"
        for tiling, of_tiling in (("ChannelsFirstTiling", widths), ("ChannelsLastTiling", [across])):
            for w in of_tiling:
                yield from (f"sum_gradients<{op}<{value}, {w}>, {tiling}>" for op in REDUCTIONS[1:])
                yield from (f"fold_and_transform<Normalize<{value}, {w}>, {fold}<{compute}>, {tiling}>"
                            for fold in FOLDS)
                for kernel, ops in (("transform", TRANSFORMS), ("resident", PASSES),
                                    ("cooperative", PASSES)):
                    yield from (f"{kernel}<{op}<{value}, {w}>, {tiling}>" for op in ops)
    for compute in ("float", "double"):
        yield from (f"{name}<{compute}>" for name in ("finish_moments", "finish_gradients",
                                                      "fold_running_statistics"))
    yield "advance_counter"


LISTING = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN7torchbn4cuda44_GLOBAL__N__9f4e2f77_11_backward_cu_bf85fe4216finish_gradientsIfEEvi:
  REG:48 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:544 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function other:
  REG:255 STACK:16 SHARED:2048 LOCAL:0 CONSTANT[0]:8 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Common:
  GLOBAL:0
 Function other:
  REG:24 STACK:0 SHARED:1152 LOCAL:0 CONSTANT[0]:8 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_a_listing_is_read():
    found = resources.parse(LISTING)
    assert {target: len(usages) for target, usages in found.items()} == {"sm_80": 2, "sm_90a": 1}
    assert found["sm_80"]["other"] == resources.Usage(registers=255, shared=2048, stack=16)
    assert found["sm_90a"]["other"] == resources.Usage(24, 1152, 0)
    text = resources.table({"other": {t: u["other"] for t, u in found.items()}}, "13.0")
    assert "| `other` | 255, 2048 B, 1, 16 B of stack | 24, 1152 B, 8 |" in text


def test_names_lose_what_says_nothing():
    assert kernel_names.brief(
        "void torchbn::cuda::transform<torchbn::cuda::Normalize<torchbn::BFloat16, 8>, "
        "torchbn::cuda::ChannelsLastTiling>(torchbn::cuda::Normalize<torchbn::BFloat16, 8>, "
        "torchbn::cuda::ChannelsLastTiling, long*)") == (
        "transform<Normalize<BFloat16, 8>, ChannelsLastTiling>")
    assert kernel_names.brief(
        "void torchbn::cuda::(anonymous namespace)::finish_moments<float>(torchbn::TrainProblem, "
        "long, void (*)(int))") == "finish_moments<float>"


@pytest.mark.parametrize("registers, shared, target, blocks", [
    (128, 33792, "sm_90a", 2), (129, 0, "sm_90a", 1), (64, 0, "sm_80", 4), (65, 0, "sm_80", 3),
    (32, 0, "sm_80", 8), (32, 0, "sm_120", 6), (24, 32768, "sm_80", 4), (24, 33792, "sm_120", 3)])
def test_blocks_are_what_registers_and_shared_memory_leave(registers, shared, target, blocks):
    assert resources.Usage(registers, shared, 0).blocks(target) == blocks


@pytest.fixture(scope="module")
def kernels():
    tool = resources.find_cuobjdump()
    if not tool:
        pytest.skip("cuobjdump is missing")
    found = resources.read(library_path(), tool)
    if not found:
        pytest.skip("the library was built without CUDA")
    return found


def targets_of(kernels):
    return {target for usages in kernels.values() for target in usages}


def test_every_kernel_is_there_for_every_target(kernels):
    assert set(kernels) == set(all_kernels())
    targets = targets_of(kernels)
    assert {name: set(usages) for name, usages in kernels.items()} == dict.fromkeys(kernels, targets)


def test_nothing_is_spilled(kernels):
    """Per-channel kernels are allowed the frame of a function that they call."""
    stacks = {(name, target): usage.stack for name, usages in kernels.items()
              for target, usage in usages.items()
              if usage.stack and re.match(MAIN, name)}

    def known(name):
        return max((size for names, size in KNOWN_STACK.items() if re.fullmatch(names, name)),
                   default=0)

    assert {key: size for key, size in stacks.items() if size > known(key[0])} == {}
    assert all(usage.stack <= 16 for name, usages in kernels.items()
               if not re.match(MAIN, name) for usage in usages.values())


def test_two_blocks_fit_a_multiprocessor(kernels):
    """The launch policy counts on two to eight."""
    source = (ROOT / "csrc" / "cuda" / "tilings.h").read_text()
    assert f"kBlock = {resources.BLOCK};" in source
    few = {(name, target): usage for name, usages in kernels.items()
           for target, usage in usages.items() if usage.blocks(target) < 2}
    assert few == {}


def test_the_table_is_that_of_the_library(kernels):
    written = resources.TABLE.read_text()
    version = resources.compiler(library_path())
    targets = re.search(r"^\| kernel \| (.*) \|$", written, re.MULTILINE)[1].split(" | ")
    if f"nvcc {version}." not in written or set(targets) != targets_of(kernels):
        pytest.skip(f"the table is of another compiler than {version}, or of other targets")
    assert written == resources.table(kernels, version), (
        "the kernels have changed: python scripts/gpu/resources.py --write")
