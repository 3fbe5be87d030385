"""Framing: pages and frames out of any slices, nothing kept that need not be, no nonsense believed."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.framing import (
    MAX_PACKET_BYTES,
    MAX_PREAMBLE_BYTES,
    AdtsReader,
    Malformed,
    OggReader,
    checksum,
)
from tests.encoded import stream_of

CUTS = st.lists(st.integers(1, 700), min_size=1, max_size=40)


def sliced(stream: bytes, sizes: list[int]) -> list[bytes]:
    """`stream` in pieces of the given sizes, again and again."""
    pieces: list[bytes] = []
    start = 0
    while start < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[start : start + size])
        start += size
    return pieces


# ---------------------------------------------------------------------------------------------------------------------
# Ogg


def page(
    lacing: list[int], body: bytes, *, flags: int = 0, granule: int = 0, serial: int = 7, sequence: int = 0
):
    head = (
        b"OggS" + struct.pack("<BBqIIIB", 0, flags, granule, serial, sequence, 0, len(lacing)) + bytes(lacing)
    )
    return head[:22] + struct.pack("<I", checksum(head + body)) + head[26:] + body


def laced(packets: list[bytes], width: int = 255) -> bytes:
    """A stream that holds `packets`, in pages of `width` segments, packets running over from page to page."""
    segments = [packet[start : start + 255] for packet in packets for start in range(0, len(packet) + 1, 255)]
    pages = []
    for sequence, first in enumerate(range(0, len(segments), width)):
        here = segments[first : first + width]
        continued = first > 0 and len(segments[first - 1]) == 255
        ends = any(len(segment) < 255 for segment in here)
        pages.append(
            page(
                [len(segment) for segment in here],
                b"".join(here),
                flags=1 if continued else 0,
                granule=sequence if ends else -1,
                sequence=sequence,
            )
        )
    return b"".join(pages)


@given(packets=st.lists(st.binary(max_size=1_000), max_size=12), width=st.integers(1, 255), sizes=CUTS)
def test_packets_come_back_whole_from_any_pages_and_any_slices(
    packets: list[bytes], width: int, sizes: list[int]
):
    reader = OggReader()
    pages = [page for piece in sliced(laced(packets, width), sizes) for page in reader.feed(piece)]
    assert [packet for page in pages for packet in page.packets] == packets


def test_the_checksum_is_the_one_that_others_write():
    """A page as written by libogg, through FFmpeg."""
    pages = OggReader().feed(stream_of(np.zeros(4_800, np.int16), 48_000, "ogg_opus"))
    assert [pages[0].first, pages[-1].last] == [True, True]
    assert pages[0].packets[0][:8] == b"OpusHead"
    assert pages[1].packets[0][:8] == b"OpusTags"


def test_a_page_says_what_its_header_says():
    [read] = OggReader().feed(page([3], b"abc", flags=6, granule=-1, serial=0xFFFFFFFF))
    assert (read.packets, read.granule, read.serial, read.first, read.last) == (
        (b"abc",),
        -1,
        0xFFFFFFFF,
        True,
        True,
    )


def test_a_page_is_told_with_its_last_byte_and_not_before():
    whole = page([3, 2], b"abcde")
    reader = OggReader()
    assert reader.feed(whole[:-1]) == []
    assert [read.packets for read in reader.feed(whole[-1:])] == [(b"abc", b"de")]


def test_a_packet_whose_middle_is_missing_is_left_out():
    first = page([255], bytes(255), granule=-1, sequence=0)
    third = page([5, 3], b"wrong" + b"new", flags=1, sequence=2)
    reader = OggReader()
    assert [read.packets for read in reader.feed(first + third)] == [(), (b"new",)]


def test_a_packet_that_is_not_continued_is_left_out():
    reader = OggReader()
    pages = reader.feed(page([255], bytes(255), granule=-1) + page([3], b"new", sequence=1))
    assert [read.packets for read in pages] == [(), (b"new",)]


def test_the_end_of_a_packet_of_another_stream_is_left_out():
    pages = OggReader().feed(
        page([255], bytes(255), granule=-1) + page([3], b"end", flags=1, serial=8, sequence=1)
    )
    assert [read.packets for read in pages] == [(), ()]


@pytest.mark.parametrize(
    "stream,why",
    [
        (b"\x1aE\xdf\xa3 WebM", "not an Ogg page"),
        (b"RI", "not an Ogg page"),
        (page([1], b"a") + b"Ogg?", "not an Ogg page"),
        (b"OggS\x01" + bytes(22), "unknown Ogg version 1"),
        (page([1], b"a")[:-1] + b"b", "checksum"),
    ],
)
def test_what_is_no_ogg_is_refused_as_soon_as_it_shows(stream: bytes, why: str):
    with pytest.raises(Malformed, match=why):
        OggReader().feed(stream)


@given(junk=st.binary(max_size=300), sizes=CUTS)
def test_random_bytes_are_refused_or_waited_for(junk: bytes, sizes: list[int]):
    reader = OggReader()
    try:
        for piece in sliced(b"OggS\x00" + junk, sizes):
            reader.feed(piece)
    except Malformed as error:
        assert len(str(error)) < 80


def test_a_packet_without_end_is_refused_and_never_kept():
    reader = OggReader()

    def feed_for_ever():
        for sequence in range(100):
            reader.feed(page([255] * 255, bytes(255 * 255), flags=1 if sequence else 0, sequence=sequence))
            assert len(reader._unfinished or b"") <= MAX_PACKET_BYTES

    with pytest.raises(Malformed, match="more than 262144 bytes"):
        feed_for_ever()


def test_an_incomplete_page_is_all_that_is_kept():
    reader = OggReader()
    whole = page([255] * 254 + [254], bytes(255 * 255 - 1))
    for piece in sliced(whole * 3, [997]):
        reader.feed(piece)
        assert len(reader._buffer) < len(whole) + 997
    assert not reader._buffer


# ---------------------------------------------------------------------------------------------------------------------
# ADTS


def frame(payload: bytes, rate_index: int = 8, blocks: int = 1, *, checked: bool = False) -> bytes:
    size = len(payload) + (9 if checked else 7)
    head = bytes(
        [
            0xFF,
            0xF0 if checked else 0xF1,
            0x40 | rate_index << 2,
            0x40 | size >> 11,
            size >> 3 & 0xFF,
            (size & 7) << 5 | 0x1F,
            0xFC | blocks - 1,
        ]
    )
    return head + (b"\x12\x34" if checked else b"") + payload


FRAMES = st.lists(st.binary(min_size=1, max_size=400).map(frame), min_size=2, max_size=12)


@given(frames=FRAMES, sizes=CUTS)
def test_frames_come_back_whole_from_any_slices(frames: list[bytes], sizes: list[int]):
    reader = AdtsReader()
    read = [frame for piece in sliced(b"".join(frames), sizes) for frame in reader.feed(piece)]
    assert [frame.data for frame in read] == frames


@given(
    frames=FRAMES, junk=st.binary(max_size=300).map(lambda junk: junk.replace(b"\xff", b"\xfe")), sizes=CUTS
)
def test_what_stands_before_the_first_frame_is_skipped(frames: list[bytes], junk: bytes, sizes: list[int]):
    reader = AdtsReader()
    read = [frame for piece in sliced(junk + b"".join(frames), sizes) for frame in reader.feed(piece)]
    assert [frame.data for frame in read] == frames


def test_a_mark_that_no_frame_follows_is_taken_for_noise():
    frames = [frame(bytes([number]) * 20) for number in range(4)]
    noise = frame(bytes(45))[:20]
    assert [read.data for read in AdtsReader().feed(noise + b"".join(frames))] == frames


@pytest.mark.parametrize("rest", [b"", b"\xff", b"\xff\xf1\x50", frame(b"cut short")[:-1]])
def test_a_single_frame_comes_at_the_end(rest: bytes):
    reader = AdtsReader()
    first = reader.feed(frame(b"alone") + rest)
    assert [read.data for read in first + reader.finish()] == [frame(b"alone")]
    assert reader.finish() == []


def test_a_frame_that_ends_in_nothing_known_is_no_frame():
    reader = AdtsReader()
    assert reader.feed(frame(b"alone") + b"noise") == []
    assert reader.finish() == []


@pytest.mark.parametrize("index,blocks,seconds", [(8, 1, 0.064), (3, 1, 1024 / 48_000), (11, 4, 0.512)])
def test_a_frame_tells_how_long_it_lasts(index: int, blocks: int, seconds: float):
    [first, _] = AdtsReader().feed(frame(b"x", index, blocks) * 2)
    assert first.duration_s == pytest.approx(seconds)


def test_a_frame_with_a_checksum_is_a_frame():
    assert len(AdtsReader().feed(frame(b"x", checked=True) * 3)) == 3


def test_a_gap_between_frames_is_refused():
    reader = AdtsReader()
    reader.feed(frame(b"one") + frame(b"two"))
    with pytest.raises(Malformed, match="does not follow"):
        reader.feed(b"gap" + frame(b"three"))


@pytest.mark.parametrize("size", [1, 1_000, MAX_PREAMBLE_BYTES + 1])
def test_noise_without_a_frame_is_refused_and_never_kept(size: int):
    reader = AdtsReader()

    def feed_all():
        for piece in sliced(b"\xff\xf0noise" * 20_000, [size]):
            reader.feed(piece)
            assert len(reader._buffer) < 8_192 + size

    with pytest.raises(Malformed, match="no ADTS frame in 65536 bytes"):
        feed_all()


@given(junk=st.binary(max_size=600), sizes=CUTS)
def test_random_bytes_are_skipped_or_refused(junk: bytes, sizes: list[int]):
    reader = AdtsReader()
    try:
        for piece in sliced(frame(b"one") + frame(b"two") + junk, sizes):
            reader.feed(piece)
        reader.finish()
    except Malformed as error:
        assert len(str(error)) < 80
