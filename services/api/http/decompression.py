"""Compressed bodies, undone within bounds: gzip, deflate, zstd, brotli."""

from __future__ import annotations

import zlib

import brotli  # type: ignore[import-untyped]  # it comes without types
import zstandard

from services.api.http import errors
from shared.domain.errors import BadInput

INFLATED_BYTES_MAX = 20 * 1_048_576
"""Of one request after decompression: the original's limit for batches."""

INFLATE_RATIO_MAX = 200
"""JSON of events shrinks 10 to 30 times; a bomb shrinks 1,000 times."""

INFLATED_BYTES_FREE = 2 * 1_048_576
"""Below it the ratio does not count: too little to hurt, and one padded event may well shrink 1,000
times."""

ENCODINGS = ("gzip", "deflate", "zstd", "br")
"""What v1 takes as `Content-Encoding`."""

ZSTD_WINDOW_BYTES_MAX = 8 * 1_048_576
"""What a sender over HTTP may ask for (RFC 9659); zstd's own default would set 128 MiB aside for a
body of 10 bytes."""

ZSTD_STEP_BYTES = 256
"""Fed at a time, because zstd cannot be told when to stop: a block of 4 bytes may stand for 128
KiB, so 8 MiB."""

GZIP_MEMBERS_MAX = 16
"""Of one gzip body: senders that append to a file make one for each piece."""

GZIP = b"\x1f\x8b\x08"
ZLIB = b"\x78"


def inflate(
    body: bytes, bytes_max: int = INFLATED_BYTES_MAX, header: int = zlib.MAX_WBITS | 32
) -> bytes:
    """Gzip members, or a zlib stream, within the limits; anything else is a BadInput or too
    large."""
    bytes_max = inflated_bytes_max(body, bytes_max)
    plain = b""
    for _ in range(GZIP_MEMBERS_MAX):
        inflater = zlib.decompressobj(header)  # 32: either header
        try:
            plain += inflater.decompress(body, bytes_max + 1 - len(plain))
        except zlib.error:
            raise BadInput("The gzip data is broken.") from None
        body = inflater.unused_data
        if not inflater.eof or not body.startswith(GZIP) or len(plain) > bytes_max:
            break
    return _whole(plain, bytes_max, inflater.eof and not body)


def unpack(body: bytes, encoding: str) -> bytes:
    """A body in one of ENCODINGS, within the same limits."""
    if encoding == "gzip":
        return inflate(body)
    if encoding == "deflate":  # zlib's header is the standard, none a common mistake
        return inflate(
            body, header=zlib.MAX_WBITS if body.startswith(ZLIB) else -zlib.MAX_WBITS
        )
    bytes_max = inflated_bytes_max(body, INFLATED_BYTES_MAX)
    try:
        return (
            _zstd(body, bytes_max) if encoding == "zstd" else _brotli(body, bytes_max)
        )
    except (zstandard.ZstdError, brotli.error):
        raise BadInput(f"The {encoding} data is broken.") from None


def inflated_bytes_max(body: bytes, bytes_max: int) -> int:
    """How many bytes a compressed body may become."""
    return min(bytes_max, max(INFLATED_BYTES_FREE, len(body) * INFLATE_RATIO_MAX))


def _whole(plain: bytes, bytes_max: int, ended: bool) -> bytes:
    if len(plain) > bytes_max:
        raise errors.too_large(bytes_max)
    if not ended:
        raise BadInput("The compressed data is cut off, or something follows it.")
    return plain


def _zstd(body: bytes, bytes_max: int) -> bytes:
    inflater = zstandard.ZstdDecompressor(
        max_window_size=ZSTD_WINDOW_BYTES_MAX
    ).decompressobj()
    plain = bytearray()
    for at in range(0, len(body), ZSTD_STEP_BYTES):
        plain += inflater.decompress(body[at : at + ZSTD_STEP_BYTES])
        if inflater.eof or len(plain) > bytes_max:
            ended = (
                inflater.eof
                and not inflater.unused_data
                and at + ZSTD_STEP_BYTES >= len(body)
            )
            return _whole(bytes(plain), bytes_max, ended)
    return _whole(bytes(plain), bytes_max, False)


def _brotli(body: bytes, bytes_max: int) -> bytes:
    inflater = brotli.Decompressor()
    plain: bytes = inflater.process(body, output_buffer_limit=bytes_max + 1)
    return _whole(plain, bytes_max, inflater.is_finished())
