"""Whether a pickle is plain: loading it runs none of the user's code, and so may happen in any thread."""

from __future__ import annotations

import copyreg

# Pickles of this protocol refer to classes and functions with this opcode. Loading a pickle without it runs none of
# the user's code, unless codes were registered with `copyreg.add_extension`.
STACK_GLOBAL = b"\x93"
EXTENSION_CODES: dict[int, tuple[str, str]] = getattr(copyreg, "_inverted_registry", {})
# How many bytes equal to the opcode are examined in one pickle, at 0.3 µs each: this many, or in a long pickle one for
# so many bytes, which takes a fifth of the time of loading it.
MOST_LOOKS = 32
BYTES_A_LOOK = 256


def is_plain(data: bytes) -> bool:
    """Whether a pickle certainly refers to no class and no function, judged without loading it.

    Not valid in a process that has `EXTENSION_CODES`.
    The opcode is one byte, which also occurs in numbers and text: in every fourth list of 64 numbers. But the opcode
    follows the name that it looks up, so it comes after MEMOIZE, or after BINGET, LONG_BINGET or FRAME with arguments.
    """
    position = -1
    for _ in range(max(MOST_LOOKS, len(data) // BYTES_A_LOOK)):
        position = data.find(STACK_GLOBAL, position + 1)
        if position < 0:
            return True
        before = data[max(0, position - 9) : position].rjust(9)
        if before[8] == 0x94 or before[7] == 0x68 or before[4] == 0x6A or before[0] == 0x95:
            return False
    return False
