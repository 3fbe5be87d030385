"""Where compressed audio begins and ends: Ogg pages and ADTS frames out of slices cut anywhere (protocol 3.1).

A reader is given bytes as they come and returns what they complete. What it keeps is bounded: the page or frame that is
still incomplete, and of Ogg the packet that goes on in the next page. Bytes that cannot belong to such a stream raise
Malformed, as early as they can be told, and the reader is of no use afterwards.

WebSocket delivers everything or nothing, so a checksum that does not match or a frame that does not follow its
predecessor is a broken client, not noise on a line: neither reader looks for the next good place. Only before the first
ADTS frame may there be something else (a tag, the rest of a frame when a client joins a broadcast).
"""

import zlib
from dataclasses import dataclass

#: A longer Ogg packet is refused. Opus audio needs 61,440 bytes at most (RFC 7845, 6); comments may be longer.
MAX_PACKET_BYTES = 256 * 1024
#: What may stand before the first ADTS frame.
MAX_PREAMBLE_BYTES = 64 * 1024


class Malformed(Exception):
    """Not the stream it should be. The text says why, in a few words, and may be shown to the client."""


# ---------------------------------------------------------------------------------------------------------------------
# Ogg (RFC 3533)

_CAPTURE = b"OggS"
_HEADER_BYTES = 27
_CONTINUED, _FIRST, _LAST = 1, 2, 4

# Ogg's checksum is the CRC-32 of zlib with every byte and the result in opposite bit order, and zeros to begin with;
# zlib inverts what it is given and what it returns.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def checksum(page: bytes) -> int:
    """The checksum of a page whose checksum field holds zeros."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the packets that end in it, and what its header says."""

    packets: tuple[bytes, ...]
    #: Position at the end of the last of `packets`, in the codec's unit; -1 if no packet ends here.
    granule: int
    serial: int
    first: bool
    last: bool


class OggReader:
    """Pages of one client, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._unfinished: bytes | None = None
        self._place = (-1, -1)  # serial and sequence number of the page that would continue `_unfinished`

    def feed(self, data: bytes) -> list[Page]:
        """The pages that `data` completes. Raises Malformed."""
        self._buffer += data
        pages, start = [], 0
        while size := self._page_size(start):
            pages.append(self._page(bytes(self._buffer[start : start + size])))
            start += size
        del self._buffer[:start]
        return pages

    def _page_size(self, start: int) -> int:
        """Bytes of the page at `start`, 0 if it is not complete."""
        head = self._buffer[start : start + _HEADER_BYTES]
        if not _CAPTURE.startswith(head[:4]):
            raise Malformed("not an Ogg page")
        if len(head) < _HEADER_BYTES:
            return 0
        if head[4]:
            raise Malformed(f"unknown Ogg version {head[4]}")
        lacing = self._buffer[start + _HEADER_BYTES : start + _HEADER_BYTES + head[26]]
        size = _HEADER_BYTES + head[26] + sum(lacing)
        return size if len(lacing) == head[26] and len(self._buffer) - start >= size else 0

    def _page(self, page: bytes) -> Page:
        if checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise Malformed("checksum of an Ogg page does not match")
        flags = page[5]
        serial = int.from_bytes(page[14:18], "little")
        sequence = int.from_bytes(page[18:22], "little")
        unfinished = self._unfinished if flags & _CONTINUED and self._place == (serial, sequence) else None
        self._place = (serial, (sequence + 1) & 0xFFFFFFFF)
        packets, self._unfinished = _unlaced(page, unfinished, orphan=bool(flags & _CONTINUED))
        return Page(
            tuple(packets),
            int.from_bytes(page[6:14], "little", signed=True),
            serial,
            first=bool(flags & _FIRST),
            last=bool(flags & _LAST),
        )


def _unlaced(page: bytes, unfinished: bytes | None, orphan: bool) -> tuple[list[bytes], bytes | None]:
    """Packets that end in `page`, and the beginning of one that does not.

    `unfinished` is the beginning of the first; without it an `orphan`'s end is worth nothing and left out.
    """
    packets: list[bytes] = []
    start = end = _HEADER_BYTES + page[26]
    before, dropping = unfinished or b"", orphan and unfinished is None
    open_packet = False
    for lacing in page[_HEADER_BYTES:start]:
        end += lacing
        open_packet = lacing == 255
        if not open_packet:
            if not dropping:
                packets.append(before + page[start:end])
            start, before, dropping = end, b"", False
        if len(before) + end - start > MAX_PACKET_BYTES:
            raise Malformed(f"an Ogg packet of more than {MAX_PACKET_BYTES} bytes")
    return packets, before + page[start:end] if open_packet and not dropping else None


# ---------------------------------------------------------------------------------------------------------------------
# ADTS (ISO/IEC 13818-7, 6.2)

_ADTS_HEADER_BYTES = 7
_ADTS_RATES = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)
#: Samples of each channel in one block of AAC.
_BLOCK_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class AdtsFrame:
    """One frame, header included, and how long it lasts."""

    data: bytes
    duration_s: float


class AdtsReader:
    """Frames of one client, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipped = 0
        self._synchronized = False

    def feed(self, data: bytes) -> list[AdtsFrame]:
        """The frames that `data` completes; the first one only when another one follows. Raises Malformed."""
        self._buffer += data
        return self._frames() if self._synchronized or self._synchronize(at_end=False) else []

    def finish(self) -> list[AdtsFrame]:
        """A single frame that nothing has followed. A frame cut short at the end is let go."""
        return self._frames() if not self._synchronized and self._synchronize(at_end=True) else []

    def _synchronize(self, at_end: bool) -> bool:
        """Drop what stands before the first frame. Its mark is common in noise: the next frame has to confirm it."""
        place = 0
        while (place := self._buffer.find(0xFF, place)) >= 0:
            if (size := self._frame_size(place)) is None:
                break
            following = self._frame_size(place + size) if size else 0
            if following or (following is None and at_end and place + size <= len(self._buffer)):
                self._synchronized = True
                break
            if following is None and not at_end:
                break
            place += 1
        self._skip(len(self._buffer) if place < 0 else place)
        return self._synchronized

    def _skip(self, count: int) -> None:
        del self._buffer[:count]
        self._skipped += count
        if self._skipped > MAX_PREAMBLE_BYTES:
            raise Malformed(f"no ADTS frame in {MAX_PREAMBLE_BYTES} bytes")

    def _frame_size(self, place: int) -> int | None:
        """Bytes of the frame whose header is at `place`, 0 if there is none, None if that cannot be told yet."""
        head = self._buffer[place : place + _ADTS_HEADER_BYTES]
        if (head and head[0] != 0xFF) or (len(head) > 1 and head[1] & 0xF6 != 0xF0):
            return 0
        if len(head) > 2 and head[2] >> 2 & 0x0F >= len(_ADTS_RATES):
            return 0
        if len(head) < _ADTS_HEADER_BYTES:
            return None
        size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return size if size > (_ADTS_HEADER_BYTES if head[1] & 1 else _ADTS_HEADER_BYTES + 2) else 0

    def _frames(self) -> list[AdtsFrame]:
        frames, place = [], 0
        while (size := self._frame_size(place)) is not None:
            if not size:
                raise Malformed("an ADTS frame does not follow another")
            if place + size > len(self._buffer):
                break
            frame = bytes(self._buffer[place : place + size])
            blocks = (frame[6] & 3) + 1
            frames.append(AdtsFrame(frame, blocks * _BLOCK_SAMPLES / _ADTS_RATES[frame[2] >> 2 & 0x0F]))
            place += size
        del self._buffer[:place]
        return frames
