"""Makes names printable. A task's name may be any text; wherever it is shown, it is part of one line."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with a space in place of each character that is not shown as one.

    These end the line, move the cursor, change colours or the direction of writing, or cannot be encoded.
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)
