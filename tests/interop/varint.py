"""QUIC's variable-length integers, as docs/protocol.md describes them under "Frames"."""


def write(number, size=None):
    """The shortest form, or the one of `size` bytes."""
    for bits, length in enumerate([1, 2, 4, 8]):
        if number < 1 << (8 * length - 2) and (size is None or size == length):
            return (number | bits << (8 * length - 2)).to_bytes(length, "big")
    raise ValueError(number)


def read(data):
    """The number and its length in bytes; None if there is not enough of it yet."""
    if not data:
        return None
    length = 1 << (data[0] >> 6)
    if len(data) < length:
        return None
    return int.from_bytes(data[:length], "big") & ((1 << (8 * length - 2)) - 1), length
