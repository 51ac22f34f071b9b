"""What only a GPU can show: agreement with the CPU, streams, graphs, large and awkward tensors."""

import functools
import gc

import pytest
import torch

from helpers import (DTYPES, LAYOUT, LAYOUTS, MODE, MOMENTUM, batch_norm, half_or_float, in_layout,
                     name_of, parameters, random, statistics)
from reference import Expected, Normalization, check_all, exact, expect_all

# Every test runs with all kernels, where they accept the shape: one after the other, as a module's
# marks vary fastest, so that what they have in common can be kept from one to the next.
pytestmark = [pytest.mark.gpu, pytest.mark.parametrize(
    "kernels", ["split", "resident", "cooperative"], indirect=True)]


@pytest.fixture(autouse=True)
def kernels(request, monkeypatch):
    monkeypatch.setenv("TORCHBN_CUDA_KERNEL", request.param)
    return request.param


def run(x, dy, affine, buffers, training):
    """Output and gradients of one call; the buffers are updated."""
    leaves = [t.detach().requires_grad_() for t in (x, *affine)]
    output = batch_norm(*leaves, *buffers[:2], training, 0.1, 1e-5,
                        num_batches_tracked=buffers[2])
    return [output.detach(), *torch.autograd.grad(output, leaves, dy)]


def problem(shape, dtype=torch.float32, device="cuda", layout="contiguous"):
    parameter_type = half_or_float(dtype, True)
    x = in_layout(random(shape, dtype, device, mean=1, std=2), layout)
    dy = in_layout(random(shape, dtype, device, seed=5), layout)
    buffers = [*statistics(shape[1], parameter_type, device), torch.tensor(3, device=device)]
    return x, dy, parameters(shape[1], parameter_type, device), buffers


@functools.lru_cache(maxsize=1)
def problem_and_results(shape, dtype, layout, training):
    """Extended precision takes longer than everything else."""
    x, dy, affine, buffers = problem(shape, dtype, layout=layout)
    return x, dy, affine, buffers, expect_all(x, dy, *affine, *buffers[:2], training=training)


# Held by one block, by clusters, and in tiles of odd planes.
HELD = [(32, 256, 14, 14), (32, 64, 28, 28), (16, 1600, 7, 7), (2048, 264)]
FEW_CHANNELS = [(2, 1, 300, 300), (20, 6, 4096), (1, 3, 70001), (8, 2, 64, 64), (100000, 2),
                (3, 1, 2, 2), (1, 1, 2), (1, 16, 33, 35)]


@pytest.mark.real_gpu
@pytest.mark.parametrize("shape", [*FEW_CHANNELS, *HELD, (32, 64, 14, 14), (8, 256, 7, 7), (64, 513),
                                   (2, 2048, 3, 3), (2, 33, 3, 5, 7)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@LAYOUT
@MODE
def test_shapes_that_want_different_launches(shape, dtype, layout, training):
    x, dy, affine, buffers, expected = problem_and_results(shape, dtype, layout, training)
    check_all(x, dy, *affine, *(b.clone() for b in buffers), training=training, expected=expected)


@functools.lru_cache(maxsize=1)
def results_on_cpu(shape, dtype, layout, training):
    """The results, and these with twice the bounds of the formula."""
    x, dy, affine, buffers = problem(shape, dtype, "cpu", layout)
    given = {} if training else dict(mean=buffers[0], var=buffers[1])
    truth = Normalization(x, *affine, **given)
    bounds = [e.bound for e in (truth.output(), *truth.gradients(dy))]
    results = run(x, dy, affine, buffers, training)
    return results, [Expected(exact(result).reshape(bound.shape), 2 * bound)
                     for result, bound in zip(results, bounds, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(6, 37, 11, 13), (70, 37)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@MODE
def test_cuda_equals_cpu(shape, dtype, layout, training):
    """Both are within the formula's bound, so they differ by two bounds at most."""
    on_cpu, expected = results_on_cpu(shape, dtype, layout, training)
    on_cuda = run(*problem(shape, dtype, "cuda", layout), training)
    for name, cpu, cuda, bounded in zip(("output", "input", "weight", "bias"), on_cpu, on_cuda,
                                        expected, strict=True):
        bounded.check(name, cuda)
        assert cpu.stride() == cuda.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("offset", [1, 2, 3, 5, 7, 8])
@MODE
def test_slices_that_start_anywhere(dtype, offset, training):
    shape = (4, 6, 9, 16)
    x, dy, affine, buffers = problem(shape, dtype)
    memory = x.new_full((x.numel() + 16,), 1e4)
    moved = memory[offset:offset + x.numel()].view(shape).copy_(x)
    check_all(moved, dy, *affine, *buffers, training=training)
    assert (memory[:offset] == 1e4).all() and (memory[offset + x.numel():] == 1e4).all()
    statistic = buffers[0].new_empty(8)[offset % 3:][:6].copy_(buffers[0])
    check_all(x, moved, *affine, statistic, *buffers[1:], training=training)


@pytest.mark.real_gpu
@pytest.mark.parametrize("shape", [*FEW_CHANNELS, *HELD, (8192, 96)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@LAYOUT
def test_every_run_gives_the_same_bits(shape, dtype, layout):
    x, dy, affine, buffers = problem(shape, dtype, layout=layout)
    runs = []
    for _ in range(4):
        own = [b.clone() for b in buffers]
        runs.append([*run(x, dy, affine, own, True), *own])
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.works_with("CUDA graphs and streams")
@MOMENTUM
@pytest.mark.parametrize("shape", [(8, 16, 12, 12), (2, 2, 200, 200), pytest.param(
    (16, 1600, 7, 7), marks=pytest.mark.real_gpu)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@LAYOUT
def test_a_captured_graph_replays_with_the_counter_advancing(momentum, shape, dtype, layout):
    x, dy, affine, buffers = problem(shape, dtype, layout=layout)
    leaves = [t.clone().requires_grad_() for t in (x, *affine)]
    initial = [b.clone() for b in buffers]

    def step():
        output = batch_norm(*leaves, *buffers[:2], True, momentum, num_batches_tracked=buffers[2])
        return [output, *torch.autograd.grad(output, leaves, dy)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    for buffer, value in zip(buffers, initial, strict=True):
        buffer.copy_(value)

    gc.collect()  # that of an older graph, during the capture, would be an error
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    assert buffers[2] == initial[2], "capturing must not run anything"

    eager_buffers = [b.clone() for b in initial]
    for replay in range(3):
        batch = in_layout(random(shape, dtype, "cuda", mean=replay, seed=replay), layout)
        with torch.no_grad():
            leaves[0].copy_(batch)
        graph.replay()
        eager = [t.detach().clone().requires_grad_() for t in leaves]
        output = batch_norm(*eager, *eager_buffers[:2], True, momentum,
                            num_batches_tracked=eager_buffers[2])
        expected = [output, *torch.autograd.grad(output, eager, dy)]
        for a, b in zip([*captured, *buffers], [*expected, *eager_buffers], strict=True):
            assert torch.equal(a, b)
        assert buffers[2] == initial[2] + replay + 1


@pytest.mark.works_with("CUDA graphs and streams")
@pytest.mark.real_gpu
@LAYOUT
@MODE
def test_work_is_queued_on_the_current_stream(layout, training):
    """The input is written late on a side stream: work on another stream would read zeros."""
    x, dy, affine, buffers = problem((16, 8, 32, 32), layout=layout)
    late = torch.zeros_like(x)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        found = run(late, dy, affine, [b.clone() for b in buffers], training)
    side.synchronize()
    for a, b in zip(found, run(x, dy, affine, buffers, training), strict=True):
        assert torch.equal(a, b)


@pytest.mark.works_with("CUDA graphs and streams")
def test_several_streams_at_once():
    """Each has its own inputs and buffers, and the workspaces of one are not the other's."""
    problems = [problem((16, 24, 30, 30)) for _ in range(4)]
    expected = [run(x, dy, affine, [b.clone() for b in buffers], True)
                for x, dy, affine, buffers in problems]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in problems]
    found = [[] for _ in problems]
    for _ in range(10):
        for index, (x, dy, affine, buffers) in enumerate(problems):
            with torch.cuda.stream(streams[index]):
                found[index].append(run(x, dy, affine, [b.clone() for b in buffers], True))
    torch.cuda.synchronize()
    for one, others in zip(expected, found, strict=True):
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.alone
@pytest.mark.real_gpu
def test_calls_return_before_the_gpu_is_done():
    x, dy, affine, buffers = problem((16, 8, 32, 32))
    with torch.cuda.stream(torch.cuda.Stream()):
        # Then the stream has memory of its own: asking the device for some might wait for it.
        run(x, dy, affine, buffers, True)
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)
        run(x, dy, affine, buffers, True)
        busy = not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
    assert busy, "the operator waited for the device"


@pytest.mark.works_with("CUDA graphs and streams")
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_is_the_inputs():
    x, dy, affine, buffers = problem((4, 3, 8, 8), device="cuda:1")
    check_all(x, dy, *affine, *buffers, training=True)
    assert torch.cuda.current_device() == 0


def test_unknown_kernels_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHBN_CUDA_KERNEL", "fastest")
    counter = torch.tensor(0, device="cuda")
    with pytest.raises(ValueError, match='must be split, resident, cooperative or auto, but it is "fastest"'):
        batch_norm(random((4, 3), device="cuda"), training=True, num_batches_tracked=counter)
    assert counter == 0


@pytest.mark.parametrize("number", ["-1", "1.5", "many", "100000", ""])
def test_a_wrong_number_of_multiprocessors_is_refused(monkeypatch, number):
    monkeypatch.setenv("TORCHBN_CUDA_LEFT_FREE", number)
    counter = torch.tensor(0, device="cuda")
    with pytest.raises(ValueError, match=f'number of multiprocessors below [0-9]+, but it is "{number}"'):
        batch_norm(random((4, 3), device="cuda"), training=True, num_batches_tracked=counter)
    assert counter == 0


def test_multiprocessors_may_be_left_to_others(monkeypatch):
    x = random((20, 6, 128, 128), device="cuda")
    dy = random(x.shape, seed=1, device="cuda")
    results = []
    for number in ("0", str(torch.cuda.get_device_properties(0).multi_processor_count - 1)):
        monkeypatch.setenv("TORCHBN_CUDA_LEFT_FREE", number)
        leaf = x.clone().requires_grad_()
        y = batch_norm(leaf, training=True)
        y.backward(dy)
        results.append((y.detach(), leaf.grad))
    for some, others in zip(*results, strict=True):
        torch.testing.assert_close(some, others, rtol=0, atol=1e-5)


def test_a_parameter_on_another_device_is_refused():
    with pytest.raises(RuntimeError, match="weight must be on input's device, cuda:0"):
        batch_norm(random((4, 3), device="cuda"), torch.ones(3), training=True)


def pieces_of(shape, limit=2**26):
    """Slices that cover a tensor [N, C, S] with little more than `limit` elements each."""
    images, length = max(1, limit // (shape[1] * shape[2])), limit // shape[1]
    return [(slice(n, n + images), slice(None), slice(s, s + length))
            for n in range(0, shape[0], images) for s in range(0, shape[2], length)]


@pytest.mark.alone
@pytest.mark.parametrize("shape, layout", [
    ((2**15 + 8, 2, 2**15), "contiguous"), ((2**15 + 8, 2, 2**15), "channels_last"),
    ((3, 1, 2**30), "contiguous"), ((2**22 + 1, 512, 1), "contiguous")], ids=str)
def test_more_elements_than_an_int_counts(shape, layout, kernels):
    """bfloat16, against float64 computed piece by piece."""
    if kernels == "resident":
        pytest.skip("no shared memory holds so many values of a channel")
    numel = shape[0] * shape[1] * shape[2]
    needed = 4 * 2 * numel + 2**33  # four tensors, and some pieces in float64
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory")
    check_in_pieces(shape, layout, "cuda")


def check_in_pieces(shape, layout, device):
    pieces = pieces_of(shape)
    count = shape[0] * shape[2]
    options = dict(dtype=torch.bfloat16, device=device)
    if layout == "channels_last":
        x = torch.empty(shape[0], shape[2], shape[1], **options).transpose(1, 2)
    else:
        x = torch.empty(shape, **options)
    torch.manual_seed(0)
    for piece in pieces:
        x[piece] = torch.randn_like(x[piece]) * 2 + 1
    x[-1, -1, -100:] += 300  # a mistake in the last elements must show
    dy = x.clamp(min=0)

    def mean_of(function):
        return sum(function(p).sum((0, 2)) for p in pieces)[:, None] / count

    def xhat(piece):
        return (x[piece].double() - mean) / std

    mean = mean_of(lambda p: x[p].double())
    var = mean_of(lambda p: (x[p].double() - mean).square())
    std = var.sqrt()
    along_one = mean_of(lambda p: dy[p].double())
    along_xhat = mean_of(lambda p: dy[p].double() * xhat(p))

    running_mean, running_var = (torch.zeros(shape[1], device=device) for _ in range(2))
    # Rows of channels where there is nothing else.
    leaf, grad_output = (t.squeeze(2) if shape[2] == 1 else t for t in (x.detach(), dy))
    output = batch_norm(leaf.requires_grad_(), None, None, running_mean, running_var, True, 1.0, 0.0)
    gradient = torch.autograd.grad(output, leaf, grad_output)[0].view_as(x)
    output = output.detach().view_as(x)

    torch.testing.assert_close(running_mean.double(), mean[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(running_var.double(), var[:, 0] * count / (count - 1), rtol=1e-6,
                               atol=0)
    half_unit, single = 0.51 * 2**-7, 2**-23  # of bfloat16's value, of float32's one
    for piece in pieces:
        h = xhat(piece)
        assert ((output[piece] - h).abs() <= half_unit * h.abs() + 4 * single * (h.abs() + 1)).all()
        grad = dy[piece].double()
        expected = (grad - along_one - h * along_xhat) / std
        size = (grad.abs() + along_one + h.abs() * along_xhat.abs()) / std
        assert ((gradient[piece] - expected).abs()
                <= half_unit * expected.abs() + 12 * single * size).all()
