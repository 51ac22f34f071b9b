"""Errors against float64, ours beside ATen's: the table of scripts/accuracy.sh, printed and judged.

Bounds, in ulp of the result at the size of its terms (see accuracy.py):

- a result that is computed in double and rounded once: 0.51;
- y in float32: x - mean, scale, their product, shift and the sum are rounded, of which the first
  three weigh up to a unit each and the others half of one: 4. dx likewise, with two more: 5;
- y and dx in a half type: float32's units are nothing beside the last rounding: 0.51;
- half inputs are summed in float32, up to 32 values at a time, each rounded by 2^-24 of the sum so
  far: 16 float32 ulp for the mean, for dgamma and dbeta; for the variance the promised 1e-6.
"""

import pytest
import torch

import accuracy

BOUNDS = {
    "float32": dict(mean=0.51, variance=0.51, y=4, dx=5, dgamma=0.51, dbeta=0.51),
    **dict.fromkeys(("bfloat16", "float16"), dict(mean=16, variance=1e-6 * 2**23 + 0.5, y=0.51,
                                                  dx=0.51, dgamma=16, dbeta=16)),
}

# What one more rounding of an intermediate result costs at most; ATen does not centre x.
ROUNDING = 1


@pytest.fixture(scope="module")
def rows():
    found = accuracy.measure(1 << 19)
    print("\nThe largest errors in ulp, torchbn / ATen:\n")
    print(accuracy.text(found))
    return found


@pytest.mark.parametrize("quantity", accuracy.QUANTITIES)
def test_errors_against_float64(rows, quantity):
    assert len(rows) == 18
    for row in rows:
        ours, aten = row[quantity]
        bound = BOUNDS[row["dtype"]][quantity]
        what = f"{row['dtype']} {row['layout']}, {row['input']}: {ours} ulp"
        assert ours <= bound, f"{what}, more than {bound}"
        assert ours <= aten + ROUNDING, f"{what}, ATen {aten}"


def test_the_measure_knows_an_ulp():
    expected = torch.tensor([1.0, 3.0, 1e-9], dtype=torch.float64)
    size = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)
    for dtype in accuracy.DTYPES.values():
        eps = torch.finfo(dtype).eps
        actual = expected.to(dtype).clone()
        assert accuracy.largest_error(actual, actual.double(), size) == 0
        for i, ulp in enumerate((eps, 2 * eps, eps)):
            other = actual.double()
            other[i] += ulp
            assert accuracy.largest_error(actual, other, size) == pytest.approx(1)


def test_the_table_has_a_line_for_each_type_layout_and_input(capsys):
    accuracy.main(["--values", "12"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["dtype", "layout", "input", *accuracy.QUANTITIES]
    assert len(lines) == 3 + 18 and all(line.count(" / ") == 6 for line in lines[3:])
