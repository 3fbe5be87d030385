"""Sound as a client encodes it, by FFmpeg (libopus, its own AAC encoder and G.711)."""

import io
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

#: Of each encoding that comes as one stream (protocol 3.1): FFmpeg's names of its container and its codec.
STREAMS = {
    "pcm_mulaw": ("mulaw", "pcm_mulaw"),
    "ogg_opus": ("ogg", "libopus"),
    "aac": ("adts", "aac"),
}


def frame_of(samples: Any, rate: int) -> AudioFrame:
    """16-bit samples as FFmpeg takes them; of shape (2, n) they are stereo."""
    planar = np.atleast_2d(samples)
    layout = "mono" if len(planar) == 1 else "stereo"
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(planar), format="s16p", layout=layout)
    frame.sample_rate = rate
    return frame


def stream_of(samples: Any, rate: int, encoding: str, **options: str) -> bytes:
    """16-bit samples, of shape (n,) or (2, n), as one stream; `options` are the codec's and the container's."""
    container, codec = STREAMS[encoding]
    file = io.BytesIO()
    layout = "mono" if np.ndim(samples) == 1 else "stereo"
    with av.open(file, "w", format=container, container_options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, options=options)
        assert isinstance(stream, AudioStream)
        out.mux(stream.encode(frame_of(samples, rate)))
        out.mux(stream.encode(None))
    return file.getvalue()


def packets_of(samples: Any, rate: int) -> list[bytes]:
    """Opus packets of 20 ms each, without a container; the last is filled up with silence."""
    size = rate // 50
    whole = np.zeros(-(-len(samples) // size) * size, np.int16)
    whole[: len(samples)] = samples
    coder = av.AudioCodecContext.create("libopus", "w")
    coder.sample_rate, coder.layout, coder.format = rate, "mono", "s16"
    packets = []
    for number, chunk in enumerate(whole.reshape(-1, size)):
        frame = AudioFrame.from_ndarray(chunk[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, number * size
        packets += coder.encode(frame)
    return [bytes(packet) for packet in [*packets, *coder.encode(None)]]
