"""Decoding: what a client encoded is heard again, however it was cut; what cannot be decoded harms nobody.

Speech is encoded here by FFmpeg (libopus, and its own AAC encoder), which plays the client.
"""

import struct
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.decoding import DECODERS, MAX_MESSAGE_S, make_decoder
from ingress.framing import AdtsReader, OggReader, checksum
from tests.encoded import stream_of
from tests.speech import FOX, clip_pcm, pieces
from wire.errors import ClientError, Close

SECONDS = 2.0
FRAME_MS = ["2.5", "5", "10", "20", "40", "60", "120"]
AAC_RATES = [8_000, 16_000, 24_000, 44_100, 48_000]
CUTS = st.lists(st.integers(1, 900), min_size=1, max_size=30)
WORDING = {"opus": "Opus packet", "ogg_opus": "Ogg Opus stream", "aac": "AAC stream"}


def speech(rate: int, seconds: float = SECONDS):
    return np.frombuffer(clip_pcm(FOX, rate), "<i2")[: int(rate * seconds)]


@cache
def ogg(frame_ms: str = "20", page_us: str = "100000") -> bytes:
    return stream_of(speech(48_000), 48_000, "ogg_opus", frame_duration=frame_ms, page_duration=page_us)


@cache
def adts(rate: int = 24_000) -> bytes:
    return stream_of(speech(rate), rate, "aac")


@cache
def packets(frame_ms: str = "20") -> tuple[bytes, ...]:
    """Raw Opus packets, head and comments left out."""
    return tuple(packet for page in OggReader().feed(ogg(frame_ms)) for packet in page.packets)[2:]


def decoded(encoding: str, messages, rate: int = 16_000):
    decoder = make_decoder(encoding, rate)
    pcm = b"".join([decoder.decode(message) for message in messages]) + decoder.finish()
    return np.frombuffer(pcm[: len(pcm) & ~1], "<i2"), decoder.sample_rate


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    messages: list[bytes] = []
    start = 0
    while start < len(stream):
        size = sizes[len(messages) % len(sizes)]
        messages.append(stream[start : start + size])
        start += size
    return messages


def likeness(heard, rate: int, delay: float = 0) -> float:
    """Correlation of what was decoded with what was said, `delay` samples before, give or take two."""
    said = speech(rate)

    def at(lag: int) -> float:
        length = min(len(said), len(heard) - lag)
        assert length > 0.9 * len(said)
        return float(np.corrcoef(said[:length], heard[lag : lag + length].astype(float))[0, 1])

    return max(at(lag) for lag in range(max(0, round(delay) - 2), round(delay) + 3))


def refused(encoding: str, messages) -> str:
    with pytest.raises(ClientError) as caught:
        decoded(encoding, messages)
    assert caught.value.code is Close.INVALID_INPUT
    text = caught.value.text
    assert text.startswith(f"Failed to decode {WORDING[encoding]}: ")
    assert len(text) < 100
    assert text.isprintable()
    return text


# ---------------------------------------------------------------------------------------------------------------------
# PCM and mu-law


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_plain_pcm_passes_untouched(rate: int):
    decoder, pcm = make_decoder("pcm_s16le", rate), b"\x01\x02\x03"
    assert decoder.sample_rate == rate
    assert decoder.decode(pcm) is pcm
    assert decoder.finish() == b""


def expansion(code: int) -> int:
    """A mu-law code by the letter of ITU-T G.711: character signals are inverted, values have 14 bits."""
    code = ~code & 0xFF
    exponent, mantissa = code >> 4 & 7, code & 15
    value = (2**exponent * (2 * mantissa + 33)) - 33
    return 4 * (-value if code >> 7 else value)


def test_mulaw_is_that_of_g711():
    heard, rate = decoded("pcm_mulaw", [bytes(range(256))], 8_000)
    assert rate == 8_000
    assert heard.tolist() == [expansion(code) for code in range(256)]
    assert (heard.min(), heard.max(), heard[0xFF], heard[0x7F]) == (-32_124, 32_124, 0, 0)


def test_mulaw_is_what_others_encode():
    heard, _ = decoded("pcm_mulaw", [stream_of(speech(8_000), 8_000, "pcm_mulaw")], 8_000)
    assert likeness(heard, 8_000) > 0.999


# ---------------------------------------------------------------------------------------------------------------------
# heard again


@pytest.mark.parametrize("frame_ms", FRAME_MS)
def test_opus_packets_are_heard_again(frame_ms: str):
    heard, rate = decoded("opus", packets(frame_ms))
    assert rate == 48_000
    assert len(heard) == len(packets(frame_ms)) * 48 * float(frame_ms)
    assert likeness(heard, rate, delay=120 if float(frame_ms) < 10 else 312) > 0.99


@pytest.mark.parametrize("frame_ms", FRAME_MS)
def test_ogg_opus_is_heard_again_to_the_sample(frame_ms: str):
    """What the encoder put before and after is gone (RFC 7845, 4.2 and 4.4)."""
    heard, rate = decoded("ogg_opus", pieces(ogg(frame_ms), 200))
    assert rate == 48_000
    assert len(heard) == len(speech(48_000))
    assert likeness(heard, rate) > 0.99


@pytest.mark.parametrize("rate", AAC_RATES)
def test_aac_is_heard_again_at_our_rate(rate: int):
    heard, out_rate = decoded("aac", pieces(adts(rate), 200))
    assert out_rate == 16_000
    assert likeness(heard, 16_000, delay=1024 * 16_000 / rate) > 0.97


@pytest.mark.parametrize("encoding", ["ogg_opus", "aac"])
def test_stereo_is_mixed_down(encoding: str):
    left = speech(48_000)
    both = np.stack([left, left // 2])
    heard, rate = decoded(encoding, pieces(stream_of(both, 48_000, encoding), 300))
    assert likeness(heard, rate, delay=1024 / 3 if encoding == "aac" else 0) > 0.97
    loudness = np.abs(heard.astype(int)).mean() / np.abs(speech(rate).astype(int)).mean()
    assert loudness == pytest.approx(0.75, abs=0.05)


def test_the_gain_of_the_head_is_applied():
    first, *rest = [bytes(page) for page in raw_pages(ogg())]
    louder = with_body(first, lambda head: head[:16] + struct.pack("<h", -6 * 256) + head[18:])
    plain, _ = decoded("ogg_opus", [ogg()])
    soft, _ = decoded("ogg_opus", [louder, *rest])
    loud = np.abs(plain) > 1_000
    assert np.median(plain[loud] / soft[loud]) == pytest.approx(10 ** (6 / 20), rel=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# any slices


@given(
    sizes=CUTS,
    frame_ms=st.sampled_from(["2.5", "20", "60"]),
    page_us=st.sampled_from(["1", "100000", "2000000"]),
)
def test_any_slices_of_an_ogg_stream_give_the_same_audio(sizes: list[int], frame_ms: str, page_us: str):
    stream = ogg(frame_ms, page_us)
    assert decoded("ogg_opus", cut(stream, sizes))[0].tobytes() == decoded("ogg_opus", [stream])[0].tobytes()


@given(sizes=CUTS, rate=st.sampled_from(AAC_RATES))
def test_any_slices_of_an_aac_stream_give_the_same_audio(sizes: list[int], rate: int):
    stream = adts(rate)
    assert decoded("aac", cut(stream, sizes))[0].tobytes() == decoded("aac", [stream])[0].tobytes()


@given(codes=st.binary(max_size=500), sizes=CUTS)
def test_any_slices_of_mulaw_give_the_same_audio(codes: bytes, sizes: list[int]):
    assert decoded("pcm_mulaw", cut(codes, sizes))[0].tobytes() == decoded("pcm_mulaw", [codes])[0].tobytes()


def test_audio_comes_out_with_the_packet_that_brings_it():
    decoder = make_decoder("opus", 16_000)
    assert [len(decoder.decode(packet)) for packet in packets()[:5]] == [1_920] * 5
    decoder = make_decoder("ogg_opus", 16_000)
    out = [len(decoder.decode(bytes(page))) for page in raw_pages(ogg(page_us="1"))[:6]]
    assert out == [0, 0, 1_920 - 2 * 312, 1_920, 1_920, 1_920]


# ---------------------------------------------------------------------------------------------------------------------
# streams within streams


def raw_pages(stream: bytes) -> list[bytes]:
    pages, start = [], 0
    while start < len(stream):
        count = stream[start + 26]
        size = 27 + count + sum(stream[start + 27 : start + 27 + count])
        pages.append(stream[start : start + size])
        start += size
    return pages


def sealed(page: bytes) -> bytes:
    """The page with a checksum that is right."""
    return page[:22] + struct.pack("<I", checksum(page[:22] + bytes(4) + page[26:])) + page[26:]


def with_body(page: bytes, change) -> bytes:
    """The page with a changed body of the same length."""
    start = 27 + page[26]
    return sealed(page[:start] + change(page[start:]))


def moved(page: bytes, granules: int) -> bytes:
    """The page somewhere else in time."""
    granule = struct.unpack_from("<q", page, 6)[0]
    return sealed(page[:6] + struct.pack("<q", granule + granules) + page[14:])


def test_a_chained_stream_is_heard_after_the_first():
    once, _ = decoded("ogg_opus", [ogg()])
    twice, _ = decoded("ogg_opus", pieces(ogg() + ogg("60"), 500))
    again, _ = decoded("ogg_opus", [ogg("60")])
    assert twice.tobytes() == once.tobytes() + again.tobytes()


def test_a_stream_that_is_not_ended_may_be_followed_by_another():
    cut_off = raw_pages(ogg())[:-1]
    heard, _ = decoded("ogg_opus", [*cut_off, ogg()])
    assert heard[-len(speech(48_000)) :].tobytes() == decoded("ogg_opus", [ogg()])[0].tobytes()


def test_a_recording_of_something_live_ends_where_it_says():
    """Positions of a stream that was joined late do not begin at zero (RFC 7845, 4.3)."""
    head, comments, *audio = raw_pages(ogg())
    late = [moved(page, 48_000 * 3_600) for page in audio]
    assert (
        decoded("ogg_opus", [head, comments, *late])[0].tobytes() == decoded("ogg_opus", [ogg()])[0].tobytes()
    )


def test_comments_of_many_pages_are_no_audio():
    picture = b"OpusTags" + bytes(100_000)
    head, _, *audio = raw_pages(ogg())
    segments = [picture[start : start + 255] for start in range(0, len(picture), 255)]
    middle = []
    for number, first in enumerate(range(0, len(segments), 255), start=1):
        here = segments[first : first + 255]
        lengths = bytes(map(len, here))
        granule = 0 if len(here[-1]) < 255 else -1
        fields = (0, 1 if number > 1 else 0, granule)
        serial = struct.unpack_from("<I", head, 14)[0]
        page = b"OggS" + struct.pack("<BBqIIIB", *fields, serial, number, 0, len(here)) + lengths
        middle.append(sealed(page + b"".join(here)))
    assert len(middle) > 1
    assert (
        decoded("ogg_opus", [head, *middle, *audio])[0].tobytes() == decoded("ogg_opus", [ogg()])[0].tobytes()
    )


def test_aac_may_change_its_rate():
    heard, _ = decoded("aac", pieces(adts(48_000) + adts(24_000), 300))
    apart = len(decoded("aac", [adts(48_000)])[0]) + len(decoded("aac", [adts(24_000)])[0])
    assert abs(len(heard) - apart) <= 2
    second = heard[-len(decoded("aac", [adts(24_000)])[0]) :]
    assert likeness(second, 16_000, delay=1024 * 16_000 / 24_000) > 0.97


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_where_aac_is_cut_nothing_stays_behind(rate: int):
    """ForceEndpoint ends a turn in the middle of a stream; what the resampler holds belongs before it."""
    stream = adts(rate)
    decoder = make_decoder("aac", 16_000)
    before = decoder.decode(stream[: len(stream) // 2])
    held = decoder.flush()
    assert 0 < len(held) <= 2 * 16_000 * 0.05
    assert decoder.flush() == b""
    after = decoder.decode(stream[len(stream) // 2 :]) + decoder.finish()
    whole = decoded("aac", [stream])[0]
    assert abs(len(before + held + after) // 2 - len(whole)) <= 2


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_mulaw", "opus", "ogg_opus"])
def test_other_decoders_hold_nothing_to_flush(encoding: str):
    assert make_decoder(encoding, 16_000).flush() == b""


def test_aac_may_begin_in_the_middle_of_a_frame():
    whole, rest = adts(), adts()[len(AdtsReader().feed(adts())[0].data) - 100 :]
    heard, _ = decoded("aac", pieces(rest, 300))
    assert abs(len(heard) - len(decoded("aac", [whole])[0]) + 1024 * 16_000 / 24_000) <= 2


# ---------------------------------------------------------------------------------------------------------------------
# cut short


@pytest.mark.parametrize("encoding", ["ogg_opus", "aac"])
@given(share=st.floats(0, 1))
def test_a_stream_cut_short_is_heard_as_far_as_it_goes(encoding: str, share: float):
    stream = ogg() if encoding == "ogg_opus" else adts()
    whole = decoded(encoding, [stream])[0].tobytes()
    part = decoded(encoding, [stream[: int(share * len(stream))]])[0].tobytes()
    settled = max(0, len(part) - 2_000)  # the resampler's last samples differ where the audio ends
    assert whole.startswith(part[:settled])


@pytest.mark.parametrize("encoding", sorted(DECODERS))
def test_nothing_gives_nothing(encoding: str):
    heard, _ = decoded(encoding, [b"", b""])
    assert len(heard) == 0


def test_an_empty_message_does_not_end_opus():
    decoder = make_decoder("opus", 16_000)
    out = [decoder.decode(packet) for packet in (packets()[0], b"", packets()[1], packets()[2])]
    assert [len(pcm) for pcm in out] == [1_920, 0, 1_920, 1_920]


# ---------------------------------------------------------------------------------------------------------------------
# what cannot be decoded


@pytest.mark.parametrize("packet", [b"\xff\xff\xff", b"\x03", b"\x03\x00", b"\xfb\x3f" + bytes(9)])
def test_a_corrupt_opus_packet_is_told(packet: bytes):
    assert refused("opus", [packets()[0], packet]) == "Failed to decode Opus packet: corrupted data"


def test_an_ogg_stream_sent_as_raw_opus_is_told():
    assert refused("opus", pieces(ogg(), 400))


@pytest.mark.parametrize(
    "spoil,why",
    [
        (lambda _: [b"\x1aE\xdf\xa3"], "not an Ogg page"),
        (lambda pages: pages[1:], "a page of a stream that has not begun"),
        (lambda pages: [pages[0], *pages[2:]], "Opus comments are missing"),
        (lambda pages: [pages[0][:-1] + b"\x01"], "checksum of an Ogg page does not match"),
        (
            lambda pages: [with_body(pages[0], lambda head: b"\x01vorbis" + head[7:])],
            "it does not begin with an Opus head",
        ),
        (lambda pages: [with_body(pages[0], lambda head: head[:9] + b"\x03" + head[10:])], "more than two channels"),
        (lambda pages: [with_body(pages[0], lambda head: head[:18] + b"\x01")], "more than two channels"),
        (lambda pages: [*pages[:2], with_body(pages[2], lambda body: b"\xff" * len(body))], "corrupted data"),
        (lambda pages: [*pages[:2], with_body(pages[2], lambda body: b"\x0b\x00" + body[2:])], "corrupted data"),
    ],
)  # fmt: skip
def test_a_broken_ogg_stream_is_told(spoil, why: str):
    assert refused("ogg_opus", spoil(raw_pages(ogg()))) == f"Failed to decode Ogg Opus stream: {why}"


def test_an_empty_packet_in_an_ogg_stream_is_told():
    head, comments, *_ = raw_pages(ogg())
    serial = struct.unpack_from("<I", head, 14)[0]
    empty = sealed(b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, serial, 2, 0, 1) + b"\x00")
    assert refused("ogg_opus", [head, comments, empty]).endswith("an Opus packet without content")


def test_broken_aac_is_told():
    frames = [frame.data for frame in AdtsReader().feed(adts())]
    spoiled = frames[5][:7] + b"\xff" * (len(frames[5]) - 7)
    assert refused("aac", [*frames[:5], spoiled]) == "Failed to decode AAC stream: corrupted data"
    assert refused("aac", [*frames[:5], b"gap", *frames[5:]]).endswith("does not follow another")
    assert refused("aac", [b"\x00" * 70_000]).endswith("no ADTS frame in 65536 bytes")


@pytest.mark.parametrize("encoding", sorted(DECODERS))
@given(junk=st.lists(st.binary(max_size=400), max_size=8))
def test_random_messages_are_decoded_or_refused(encoding: str, junk: list[bytes]):
    try:
        decoded(encoding, junk)
    except ClientError as error:
        assert error.text.startswith(f"Failed to decode {WORDING[encoding]}: ")


@pytest.mark.parametrize("encoding", ["opus", "ogg_opus", "aac"])
@given(spots=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_spoiled_streams_are_decoded_or_refused(encoding: str, spots: list[tuple[int, int]]):
    """Checksums are mended, so that what is spoiled reaches the codec."""
    stream = bytearray(
        b"".join(packets()) if encoding == "opus" else ogg() if encoding == "ogg_opus" else adts()
    )
    for place, value in spots:
        stream[place % len(stream)] = value
    if encoding == "opus":
        sizes = [len(packet) for packet in packets()]
        messages = [bytes(stream[sum(sizes[:index]) :][:size]) for index, size in enumerate(sizes[:40])]
    elif encoding == "ogg_opus":
        starts = np.cumsum([0] + [len(page) for page in raw_pages(ogg())])
        messages = [sealed(bytes(stream[a:b])) for a, b in pairwise(starts)]
    else:
        messages = [bytes(stream)]
    try:
        decoded(encoding, messages)
    except ClientError as error:
        assert error.text.startswith(f"Failed to decode {WORDING[encoding]}: ")


# ---------------------------------------------------------------------------------------------------------------------
# bounds


def test_an_hour_in_one_message_is_refused():
    """120 ms of silence take two bytes."""
    head, comments, *_ = raw_pages(ogg())
    serial = struct.unpack_from("<I", head, 14)[0]
    body = b"\x1b\x02" * 255
    bomb = [
        sealed(b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, serial, 2 + page, 0, 255) + b"\x02" * 255 + body)
        for page in range(120)
    ]
    text = refused("ogg_opus", [head, comments, b"".join(bomb)])
    assert text.endswith("more than 8 seconds of audio in one message")
    frame = AdtsReader().feed(stream_of(np.zeros(16_000, np.int16), 8_000, "aac"))[4].data
    text = refused("aac", [frame * 1_000])
    assert text.endswith("more than 8 seconds of audio in one message")


def test_a_message_may_hold_as_much_as_is_said_and_the_next_one_too():
    frame = AdtsReader().feed(adts(16_000))[4].data
    most = int(MAX_MESSAGE_S * 16_000 / 1024) - 1
    heard, _ = decoded("aac", [frame * most, frame * most])
    assert len(heard) == 2 * most * 1024


def test_a_message_cannot_open_hundreds_of_decoders():
    start = b"".join(raw_pages(ogg())[:3])
    assert refused("ogg_opus", [start * 100]).endswith("seconds of audio in one message")


def test_dropped_decoders_free_their_memory():
    """AAC holds most, 700 KB a decoder."""
    process, first, second = psutil.Process(), None, 0

    def many() -> int:
        for _ in range(100):
            for encoding, message in (
                ("aac", adts()[:4_000]),
                ("opus", packets()[0]),
                ("ogg_opus", ogg()[:2_000]),
            ):
                make_decoder(encoding, 16_000).decode(message)
        return process.memory_info().rss

    first, second = many(), many()
    assert second - first < 20 * 2**20


def test_codecs_write_nothing_to_the_terminal():
    code = """
from tests.ingress.test_decoding import *
for encoding, stream in (("aac", adts()), ("opus", ogg()), ("ogg_opus", ogg())):
    for at in range(40, len(stream), 61):
        try:
            make_decoder(encoding, 16_000).decode(stream[:at] + b"\\xff" * 40 + stream[at + 40 :])
        except ClientError:
            pass
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
