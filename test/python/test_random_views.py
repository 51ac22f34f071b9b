"""Random shapes, types and strides: permuted, stepped, expanded and shifted inputs and gradients."""

import pytest
import torch

from helpers import DTYPES, half_or_float, parameters, random, statistics
from reference import check_all

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


@st.composite
def views(draw, shape):
    """A recipe for a view of this shape: the order in which its axes lie in memory, the step along
    each (0 expands it), and the offset of the first element."""
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 0]), min_size=len(shape),
                          max_size=len(shape)))
    return order, steps, draw(st.integers(0, 3))


def build_view(recipe, shape, dtype, seed):
    order, steps, offset = recipe
    stored = [1 if steps[a] == 0 else shape[a] * steps[a] for a in order]
    count = offset + int(torch.tensor(stored).prod())
    memory = random((count,), dtype, mean=1, std=2, seed=seed)[offset:].view(stored)
    view = memory.permute([order.index(a) for a in range(len(shape))])
    view = view[tuple(slice(None, None, max(s, 1)) for s in steps)]
    return view.expand(shape)


@st.composite
def problems(draw):
    rank = draw(st.integers(2, 5))
    shape = draw(st.lists(st.integers(1, 6), min_size=rank, max_size=rank))
    if shape[0] * torch.tensor([1, *shape[2:]]).prod() == 1:
        shape[0] = 2
    return dict(shape=tuple(shape), dtype=draw(st.sampled_from(DTYPES)), x=draw(views(shape)),
                dy=draw(views(shape)), affine=draw(st.booleans()), wide=draw(st.booleans()),
                interleaved=draw(st.booleans()), training=draw(st.booleans()),
                momentum=draw(st.sampled_from([0.0, 0.1, 1.0, -0.5])))


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
@hypothesis.given(problem=problems())
def test_random_shapes_and_strides(problem):
    shape, dtype = problem["shape"], problem["dtype"]
    parameter_type = half_or_float(dtype, problem["wide"])
    x = build_view(problem["x"], shape, dtype, 0)
    dy = build_view(problem["dy"], shape, dtype, 1)
    mean, var = statistics(shape[1], parameter_type)
    if problem["interleaved"]:
        mean, var = torch.stack([mean, var], 1).unbind(1)
    affine = parameters(shape[1], parameter_type) if problem["affine"] else (None, None)
    check_all(x, dy, *affine, mean, var, training=problem["training"],
              momentum=problem["momentum"])
