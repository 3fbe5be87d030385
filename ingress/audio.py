"""Client audio -> 16 kHz mono PCM, streamed (protocol 3.1): bytes in, bytes out, in whatever pieces they come.

Which of soxr's engines, measured on 50 ms messages (lag: audio received and not yet handed out; cost: processor time
per second of audio, of one x86-64 core):

                      8 kHz                 24 kHz                48 kHz
                      lag p50 / max  cost   lag p50 / max  cost   lag p50 / max  cost
    HQ                63 / 115 ms    0.2 ms  21 / 36 ms    0.3 ms  21 / 36 ms    0.4 ms
    LQ                33 / 61 ms     0.1 ms  13 / 19 ms    0.2 ms  13 / 19 ms    0.3 ms   (-8 dB at 3.4 kHz from 8 kHz)
    HQ variable-rate  30 / 30 ms     0.6 ms  10 / 10 ms    1.0 ms  13 / 13 ms    3.4 ms

HQ works on long blocks, so its output comes in bursts: every word of a telephone call would be up to 115 ms late. The
variable-rate engine is as clean (images and aliases below -100 dB), its lag is short and constant, and in float32 its
output does not depend on how the input was cut, which the tests hold it to. It costs one core per 300 sessions of
48 kHz. Audio at 16 kHz is not touched at all.
"""

import numpy as np
import numpy.typing as npt
import soxr  # type: ignore[import-untyped]

from wire.entries import SAMPLE_RATE

_INT16 = np.dtype("<i2")
_NOTHING = np.empty(0, np.float32)
#: Messages of nothing but zeros, by their size, and how many sizes are kept: what muted microphones send.
_MUTE: dict[int, bytes] = {}
_MUTE_SIZES = 64


def shared(pcm: bytes) -> bytes:
    """The same audio; where it is all zeros, the same object for all sessions, which hold it until a checkpoint."""
    mute = _MUTE.get(size := len(pcm))
    if mute is None and len(_MUTE) < _MUTE_SIZES and size and not any(pcm):
        mute = _MUTE[size] = pcm
    return pcm if mute is None or pcm != mute else mute


class Converter:
    """One session's way from the client's samples to ours. `convert` each message, `flush` where the audio is cut."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        #: Whole samples received, at the client's rate.
        self.received = 0
        #: Samples handed out, at 16 kHz: the position of the next one.
        self.position = 0
        #: (received, position) when the resampler last began anew.
        self.began = (0, 0)
        self._half_sample = b""
        self._unflushed = False
        resampling = rate != SAMPLE_RATE
        self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, vr=True) if resampling else None

    @property
    def within_a_sample(self) -> bool:
        """The last message ended in the middle of a sample."""
        return bool(self._half_sample)

    def go_on(self, received: int, position: int) -> None:
        """Before the first message: as if so much had been received, and the next sample handed out is this one."""
        self.received, self.position, self.began = received, position, (received, position)

    @property
    def received_s(self) -> float:
        """Seconds of audio received."""
        return self.received / self.rate

    def convert(self, data: bytes) -> bytes:
        """16-bit little-endian mono PCM of any length; returns what is ready, at 16 kHz.

        A message may end in the middle of a sample: the odd byte is kept for the next one.
        """
        if self._half_sample:
            data, self._half_sample = self._half_sample + data, b""
        size = len(data)
        if size & 1:
            size -= 1
            data, self._half_sample = data[:size], data[size:]
        self.received += size // 2
        if self._stream is None or not data:
            self.position += size // 2
            return shared(data)
        self._unflushed = True
        return self._out(self._stream.resample_chunk(np.frombuffer(data, _INT16).astype(np.float32)))

    def flush(self) -> bytes:
        """What the resampler still holds. The audio that follows begins anew, as after silence."""
        if self._stream is None or not self._unflushed:
            return b""
        tail = self._out(self._stream.resample_chunk(_NOTHING, last=True))
        self._stream.clear()
        self._unflushed = False
        self.began = (self.received, self.position)
        return tail

    def _out(self, samples: npt.NDArray[np.float32]) -> bytes:
        # Filters overshoot at the edges of clipped speech; a wrapped sample would be a click.
        pcm: bytes = np.clip(np.rint(samples), -32768, 32767).astype(_INT16).tobytes()
        self.position += len(pcm) // 2
        return shared(pcm)
