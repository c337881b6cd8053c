"""Numbers come from any library, and what a message shows of a value is one line."""

import operator

import numpy as np
import pytest
import torch

from seedbed.errors import BadInput, fraction, number, shown, whole

THREE = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)]
NO_NUMBER = [True, np.True_, torch.tensor(True), "3", b"3", None, [3], (3,), {}, np.array([3]),
             torch.tensor([3]), np.zeros((99, 99)), object(), [0] * 9999, 3j, "\n" * 99]  # fmt: skip


@pytest.mark.parametrize("value", THREE, ids=repr)
def test_a_whole_number_of_any_library_is_pythons_own(value):
    assert type(whole("n", value)) is int and whole("n", value) == 3
    assert type(number(value)) is float
    with pytest.raises(BadInput, match="n must be a whole number of at least 4"):
        whole("n", value, least=4)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)])
def test_a_share_of_any_library_is_pythons_own(value):
    assert type(fraction("n", value)) is float and fraction("n", value) == 0.5
    assert number(value, operator.index) is None


@pytest.mark.parametrize("value", NO_NUMBER, ids=range(len(NO_NUMBER)))
def test_what_is_no_number_is_refused_in_one_short_line(value):
    assert number(value) is None
    for check in (whole, fraction):
        with pytest.raises(BadInput, match="n must be a") as caught:
            check("n", value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 150


def test_a_value_is_shown_on_one_line():
    assert shown("a") == "'a'" and shown(3.5) == "3.5"
    assert shown(torch.zeros(2, 3)) == "Tensor of shape (2, 3)"
    assert shown(np.zeros((9, 9))) == "ndarray of shape (9, 9)"
    assert "\n" not in shown([np.zeros((9, 9))]) and len(shown(["x"] * 999)) == 80
