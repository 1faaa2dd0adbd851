"""CRC-32C as the package of this name has it, which tensorboardX uses if it can be imported.

Without it, tensorboardX takes a loop over the bytes of every event: for pictures half of the time
of a training as short as those of tests.
"""

import numpy as np

ROWS = 512
SHORT = 16384  # bytes, for which a loop is as fast


def _table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(0x82F63B78)
    return table


TABLE = _table()
PLAIN = TABLE.tolist()


def crc32c(data, crc=0):
    """Of the bytes so far, `crc`, and these."""
    crc ^= 0xFFFFFFFF
    if len(data) < SHORT:
        for byte in data:
            crc = PLAIN[(crc ^ byte) & 255] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    return _in_rows(np.frombuffer(data, np.uint8), crc) ^ 0xFFFFFFFF


def _in_rows(data, crc):
    """Rows of bytes at once, each from 0, then one after the other: the CRC is linear.

    The row length's worth of zeros moves a CRC on by a linear map: that of its 32 bits.
    """
    length = -(-len(data) // ROWS)
    rows = np.zeros((ROWS + 32, length), np.uint8)  # zeros before the first byte change nothing
    rows[:ROWS].reshape(-1)[ROWS * length - len(data) :] = data
    first = np.unravel_index(ROWS * length - len(data) + np.arange(4), (ROWS, length))
    rows[first] ^= np.frombuffer(int(crc).to_bytes(4, "little"), np.uint8)
    state = np.zeros(ROWS + 32, np.uint32)
    state[ROWS:] = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for column in np.ascontiguousarray(rows.T):
        state = TABLE[(state ^ column) & 255] ^ (state >> 8)
    *parts, moved = np.split(state, [ROWS])
    moved, total = moved.tolist(), 0
    for part in parts[0].tolist():
        bits, total = total, part
        while bits:
            total ^= moved[bits.bit_length() - 1]
            bits ^= 1 << bits.bit_length() - 1
    return total
