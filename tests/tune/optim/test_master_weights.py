from __future__ import annotations

import hypothesis.extra.numpy as from_numpy
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laplm.tune.optim.master_weights import join_master, split_master

finite = st.floats(-(2.0**126), 2.0**126, width=32)


@given(from_numpy.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_two_halves_are_the_number_to_the_last_bit(values: NDArray[np.float32]) -> None:
    upper, low = split_master(torch.from_numpy(values))
    assert (upper.dtype, low.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(
        join_master(upper, low).view(torch.int32), torch.from_numpy(values).view(torch.int32)
    )


@given(from_numpy.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_the_upper_half_is_as_near_as_the_nearest_in_bfloat16(values: NDArray[np.float32]) -> None:
    exact = torch.from_numpy(values).double()
    upper, _ = split_master(torch.from_numpy(values))
    nearest = torch.from_numpy(values).to(torch.bfloat16).double()
    assert torch.equal((upper.double() - exact).abs(), (nearest - exact).abs())
