"""The checksum of TensorBoard's events that tests compute faster than tensorboardX does."""

import numpy as np
import pytest
from tensorboardX import crc32c as theirs

import crc32c


@pytest.mark.parametrize("length", [0, 1, 7, 12, 16383, 16384, 16385, 16896, 99991, 300000])
def test_it_is_that_of_the_loop_over_bytes(length, rng):
    data = rng.integers(0, 256, length, np.uint8).tobytes()
    for before in (0, 1, 0xFFFFFFFF, 0x12345678):
        assert crc32c.crc32c(data, before) == theirs.crc_update(before, data)


def test_the_check_value_of_the_standard():
    assert crc32c.crc32c(b"123456789") == 0xE3069283


def test_events_are_written_with_it():
    assert theirs.crc32c is crc32c.crc32c
