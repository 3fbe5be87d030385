"""What a client's encoding makes of audio -> 16-bit mono PCM, streamed (protocol 2.1, 3.1): bytes in, bytes out.

The codecs are FFmpeg's, through PyAV: libopus and the AAC decoder. Where a packet begins and ends is read here
(`ingress/framing.py`), so that a message with more audio than a message may have is refused before it is decoded.

Processor time per second of audio of one x86-64 core, on ten seconds of read speech in messages of 100 ms (opus: of one
packet); `Converter` afterwards takes 3 to 4 ms from 48 kHz, 0.6 ms from 8 kHz, and none from 16 kHz:

    opus, packets of 2.5 / 10 / 20 / 60 ms      4.6 / 1.8 / 1.9 / 1.3 ms
    ogg_opus, the same                          5.4 / 1.9 / 2.3 / 1.4 ms
    aac at 16 / 24 / 48 kHz, to 16 kHz          0.6 / 2.0 / 4.6 ms
    pcm_mulaw                                   0.05 ms

An AAC decoder holds 0.7 MB; to make one and hear its first frame takes 3 ms.

PyAV is loaded with the first session that needs it: most nodes never do, and would start later and be larger for it.
"""

import struct
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

import numpy as np
import numpy.typing as npt

from ingress.audio import Converter
from ingress.framing import AdtsFrame, AdtsReader, Malformed, OggReader, Page
from wire.entries import SAMPLE_RATE
from wire.errors import ClientError, Close

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame

#: More audio than this in one message is refused: a few kilobytes of Opus can hold an hour. At 16 kHz it still fits
#: one entry of the audio log (`wire.entries.MAX_ENTRY_BYTES`).
MAX_MESSAGE_S = 8.0
#: What a new Ogg stream counts for: it costs a decoder, and a message could hold thousands.
_STREAM_COSTS_S = 0.5

#: libopus always decodes to this rate here, whatever was encoded.
_OPUS_RATE = 48_000

_INT16 = np.dtype("<i2")


class Decoder(Protocol):
    """One session's decoder. `decode` each message in order, `finish` once after the last; drop it to free it."""

    @property
    def sample_rate(self) -> int:
        """Rate of the PCM that comes out, fixed for the decoder's life."""

    def decode(self, data: bytes) -> bytes:
        """16-bit little-endian mono PCM that `data` completes. Raises ClientError 3006; then the decoder is done."""

    def flush(self) -> bytes:
        """What is decoded and not handed out yet, where the audio is cut; the stream goes on after it."""

    def finish(self) -> bytes:
        """What was held back. A packet, page or frame that never became complete is let go. Raises ClientError."""


def make_decoder(encoding: str, sample_rate: int) -> Decoder:
    """A decoder for one of `DECODERS`; `sample_rate` is the client's, which opus, ogg_opus and aac ignore.

    Raises KeyError for another encoding: parameters are checked before.
    """
    return DECODERS[encoding](sample_rate)


class _Plain:
    """PCM as we want it. Half a sample may come: `Converter` keeps it for the next message."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def decode(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def finish(self) -> bytes:
        return b""


def _mulaw_table() -> npt.NDArray[np.int16]:
    """Code -> sample (ITU-T G.711, table 2a): sign, segment and step, sent inverted; 14 bits, here raised to 16."""
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = ((2 * step + 33) << segment) - 33
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16) * np.int16(4)


_MULAW = _mulaw_table().astype(_INT16)


class _Mulaw(_Plain):
    def decode(self, data: bytes) -> bytes:
        return _MULAW[np.frombuffer(data, np.uint8)].tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Opus


class _OpusPackets:
    """libopus, one packet after the other. It mixes stereo down itself, at no cost, when asked for one channel."""

    def __init__(self, gain: int = 0) -> None:
        """`gain` in 1/256 dB, as an Ogg stream's head has it."""
        self._codec = _codec("libopus", _opus_head(gain))

    def decode(self, packet: bytes) -> bytes:
        """PCM of one packet, at most 120 ms. Raises FFmpegError."""
        return b"".join(_int16(frame) for frame in self._codec.decode(_av().Packet(packet)))


def _opus_head(gain: int) -> bytes:
    """The head of a mono stream (RFC 7845, 5.1): from it the decoder learns channels and gain."""
    return b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, _OPUS_RATE, gain, 0)


def _int16(frame: "AudioFrame") -> bytes:
    return bytes(frame.planes[0])[: 2 * frame.samples]  # planes are padded


def _opus_samples(packet: bytes) -> int:
    """How long a packet lasts, by its first two bytes (RFC 6716, 3.1 and 3.2). Raises Malformed."""
    if not packet or (packet[0] & 3 == 3 and len(packet) < 2):
        raise Malformed("an Opus packet without content")
    mode, code = packet[0] >> 3, packet[0] & 3
    if mode < 12:
        samples = (480, 960, 1920, 2880)[mode & 3]
    elif mode < 16:
        samples = (480, 960)[mode & 1]
    else:
        samples = (120, 240, 480, 960)[mode & 3]
    return samples * (packet[1] & 0x3F if code == 3 else (1, 2, 2)[code])


class _Opus:
    sample_rate = _OPUS_RATE

    def __init__(self, sample_rate: int) -> None:
        del sample_rate
        self._packets = _OpusPackets()

    def decode(self, data: bytes) -> bytes:
        if not data:  # protocol 3.1: an empty message is ignored; to the codec it would mean the end
            return b""
        try:
            return self._packets.decode(data)
        except _av().FFmpegError:
            _refuse("Opus packet", "corrupted data")

    def flush(self) -> bytes:
        return b""  # a packet is handed out as it is decoded

    def finish(self) -> bytes:
        return b""


class _OggOpus:
    """An Ogg stream of Opus, and any others chained to it (RFC 7845)."""

    sample_rate = _OPUS_RATE

    def __init__(self, sample_rate: int) -> None:
        del sample_rate
        self._reader = OggReader()
        self._stream: _OpusStream | None = None
        self._left_s = 0.0

    def decode(self, data: bytes) -> bytes:
        self._left_s = MAX_MESSAGE_S
        try:
            return b"".join([self._page(page) for page in self._reader.feed(data)])
        except Malformed as error:
            _refuse("Ogg Opus stream", str(error))
        except _av().FFmpegError:
            _refuse("Ogg Opus stream", "corrupted data")

    def flush(self) -> bytes:
        return b""  # a packet is handed out as it is decoded

    def finish(self) -> bytes:
        return b""

    def _page(self, page: Page) -> bytes:
        if page.first:
            self._left_s = _spend(self._left_s, _STREAM_COSTS_S)
            self._stream = _OpusStream(page)
            return b""
        if self._stream is None or page.serial != self._stream.serial:
            raise Malformed("a page of a stream that has not begun")
        packets = self._stream.audio_packets(page)
        self._left_s = _spend(self._left_s, sum(map(_opus_samples, packets)) / _OPUS_RATE)
        return self._stream.decode(packets, page)


class _OpusStream:
    """One logical stream: head, comments, audio; samples before its beginning and after its end are dropped."""

    def __init__(self, page: Page) -> None:
        """From its first page, which holds the head alone (RFC 7845, 3). Raises Malformed."""
        self.serial = page.serial
        head = page.packets[0] if len(page.packets) == 1 else b""
        if head[:8] != b"OpusHead" or len(head) < 19 or head[8] >> 4:
            raise Malformed("it does not begin with an Opus head")
        channels, pre_skip, gain, family = struct.unpack_from("<xBH4xhB", head, 8)
        if family or channels not in (1, 2):
            raise Malformed("more than two channels")
        self._packets = _OpusPackets(gain)
        self._comments_due = True
        self._to_skip: int = pre_skip
        self._decoded = 0
        #: Granule position of the first sample decoded; a recording of something live may begin anywhere.
        self._origin: int | None = None

    def audio_packets(self, page: Page) -> tuple[bytes, ...]:
        """The page's packets without the comments, which come first. Raises Malformed."""
        packets = page.packets
        if self._comments_due and packets:
            self._comments_due = False
            if not packets[0].startswith(b"OpusTags"):
                raise Malformed("Opus comments are missing")
            packets = packets[1:]
        return packets

    def decode(self, packets: Iterable[bytes], page: Page) -> bytes:
        """PCM of a page's audio packets. Raises FFmpegError."""
        pcm = b"".join(map(self._packets.decode, packets))
        before, self._decoded = self._decoded, self._decoded + len(pcm) // 2
        if self._origin is None and pcm:
            self._origin = 0 if page.last else max(0, page.granule - self._decoded)
        skip = min(self._to_skip, len(pcm) // 2)
        self._to_skip -= skip
        end = len(pcm) // 2
        if page.last and page.granule >= 0:  # RFC 7845, 4.4: the last page tells where the audio ends
            end = min(end, max(0, page.granule - (self._origin or 0) - before))
        return pcm[2 * skip : 2 * end]


# ---------------------------------------------------------------------------------------------------------------------
# AAC


class _Aac:
    """A stream of ADTS frames. Its rate is in the frames and may change, so it is converted here already."""

    sample_rate = SAMPLE_RATE

    def __init__(self, sample_rate: int) -> None:
        del sample_rate
        self._reader = AdtsReader()
        self._codec = _codec("aac")
        self._converter = Converter(SAMPLE_RATE)

    def decode(self, data: bytes) -> bytes:
        return self._decoded(lambda: self._reader.feed(data))

    def flush(self) -> bytes:
        return self._converter.flush()

    def finish(self) -> bytes:
        return self._decoded(self._reader.finish) + self.flush()

    def _decoded(self, read: Callable[[], list[AdtsFrame]]) -> bytes:
        left_s, pcm = MAX_MESSAGE_S, []
        try:
            for frame in read():
                left_s = _spend(left_s, frame.duration_s)
                pcm += [self._convert(decoded) for decoded in self._codec.decode(_av().Packet(frame.data))]
        except Malformed as error:
            _refuse("AAC stream", str(error))
        except _av().FFmpegError:
            _refuse("AAC stream", "corrupted data")
        return b"".join(pcm)

    def _convert(self, frame: "AudioFrame") -> bytes:
        tail = b""
        if frame.sample_rate != self._converter.rate:
            tail = self._converter.flush()
            self._converter = Converter(frame.sample_rate)
        mono = frame.to_ndarray().mean(axis=0) * 32768
        return tail + self._converter.convert(np.clip(np.rint(mono), -32768, 32767).astype(_INT16).tobytes())


# ---------------------------------------------------------------------------------------------------------------------


def _av() -> ModuleType:
    import av  # noqa: PLC0415 not before somebody needs it

    return av


def _codec(name: str, head: bytes | None = None) -> "AudioCodecContext":
    codec = cast("AudioCodecContext", _av().CodecContext.create(name, "r"))
    codec.thread_count = 1  # neither codec can use another
    if head:
        codec.extradata = head
    return codec


def _spend(left_s: float, duration_s: float) -> float:
    if duration_s > left_s:
        raise Malformed(f"more than {MAX_MESSAGE_S:g} seconds of audio in one message")
    return left_s - duration_s


def _refuse(what: str, why: str) -> NoReturn:
    raise ClientError(Close.INVALID_INPUT, f"Failed to decode {what}: {why}")


#: Encoding (protocol 2.1) -> its decoder.
DECODERS: dict[str, Callable[[int], Decoder]] = {
    "pcm_s16le": _Plain,
    "pcm_mulaw": _Mulaw,
    "opus": _Opus,
    "ogg_opus": _OggOpus,
    "aac": _Aac,
}
