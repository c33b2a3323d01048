"""LZString's base64 form (`compression=lz64`), which old posthog-js sends, to text. Never grows
beyond its bound.

Our own, because the one package for it is unmaintained and unbounded: 4 KB may stand for 3 million
characters. The format is LZ78 over UTF-16 code units: codes of growing width, their least bit
first, lie in base64's bits, the highest first; 0 and 1 bring a new unit of 8 or 16 bits, 2 is the
end.
"""

from __future__ import annotations

import base64
import binascii

from services.api.http import errors
from shared.domain.errors import BadInput

LZ64_BYTES_MAX = 1_048_576
"""Of the compressed text: undoing it takes Python 0.4 s. Browsers sent some 10 KB."""

_END = 2
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def expand(body: bytes, units_max: int) -> bytes:
    """The text as UTF-8, half a surrogate replaced; BadInput when it is broken, too large beyond
    `units_max` units."""
    if len(body) > LZ64_BYTES_MAX:
        raise errors.too_large(LZ64_BYTES_MAX)
    digits = body.strip().rstrip(b"=")
    try:
        bits = base64.b64decode(
            digits + b"A" * (-len(digits) % 4), validate=True
        ).translate(_MIRRORED)
    except (binascii.Error, ValueError):
        raise _broken() from None
    text = "".join(_words(bits, 6 * len(digits), units_max))
    return (
        text.encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
        .encode()
    )


def _words(bits: bytes, end: int, units_max: int) -> list[str]:
    """The words that the codes stand for, in order. Each word of the dictionary is a word of the
    text and one unit more, so that the bound holds for the dictionary too."""
    dictionary = ["", "", ""]
    words = [""]
    last = ""
    units = at = 0

    def take(width: int) -> int:
        nonlocal at
        start, at = at, at + width
        if at > end:
            raise _broken()
        return int.from_bytes(bits[start >> 3 : (start >> 3) + 5], "little") >> (
            start & 7
        ) & ((1 << width) - 1)

    while (code := take(len(dictionary).bit_length())) != _END:
        if code < _END:
            code, unit = len(dictionary), chr(take(16 if code else 8))
            dictionary.append(unit)
        if code > len(dictionary) or (code == len(dictionary) and not last):
            raise _broken()
        word = dictionary[code] if code < len(dictionary) else last + last[0]
        units += len(word)
        if units > units_max:
            raise errors.too_large(units_max)
        words.append(word)
        if last:
            dictionary.append(last + word[0])
        last = word
    if end - at > 6:  # the end fills up its digit, or adds one
        raise _broken()
    return words


def _broken() -> BadInput:
    return BadInput("The lz64 data is broken or cut off.")
