r"""Text that a terminal shows and doesn't obey.

A terminal takes some characters for orders: to clear the screen, to rename the window, to fill the clipboard, to turn
the direction of writing. A model with a vocabulary of bytes can spell them, and so can a file. What is shown at a
terminal goes through `visible`; files and pipes get the text as it is.
"""

import unicodedata

_KEPT = "\n\t"
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    r"""A text in which characters that a terminal obeys are written out, such as ``\x1b``.

    These are the control characters but for the end of a line and the tab, among them ESC, BEL and the eight-bit CSI
    and OSC; the embeddings, overrides and isolates of writing direction; separators of lines and paragraphs; invisible
    tags; and halves of characters, which can't be printed at all.

    Args:
        text: any.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(character) if _is_order(character) else character for character in text)


def _is_order(character: str) -> bool:
    if character in _KEPT:
        return False
    tag = 0xE0000 <= ord(character) <= 0xE007F
    return character in _DIRECTIONS or tag or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _spelt(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
