"""Log-mel features as Whisper's encoder wants them, for rows of any length at once.

After Radford et al. 2022 (arXiv 2212.04356, section 2.2) and its released code: 16 kHz audio, Hann windows of 25 ms
every 10 ms, a bank of mel filters after Slaney (the one that librosa makes by default), the decimal logarithm, no more
than eight orders of magnitude below the row's loudest value, scaled to about -1..1.

Whisper was trained on 30 s of audio, silence after the speech included. Most of that silence can be left out, not all
of it: the model must hear that nothing follows. How much is the caller's `margin`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160
HOPS_PER_FRAME = 2  # the encoder's second convolution halves the rate
SAMPLES_PER_FRAME = HOP * HOPS_PER_FRAME

#: Slaney's mel scale: linear below 1 kHz, logarithmic above.
_LINEAR_HZ = 200 / 3
_BREAK_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27


class LogMel:
    """The filter bank and the window, made once."""

    def __init__(self, bands: int = 80) -> None:
        self._filters = filters(bands)
        self._window = torch.hann_window(WINDOW)

    def __call__(self, audio: Tensor) -> Tensor:
        """`audio` [B, N] float32 in -1..1, N a multiple of HOP and more than WINDOW / 2 -> [B, bands, N / HOP].

        Each row is scaled by its own loudest value, and so comes out as if alone.
        """
        padded = F.pad(audio[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
        spectrum = torch.fft.rfft(padded.unfold(1, WINDOW, HOP)[:, :-1] * self._window)
        power = torch.view_as_real(spectrum).square().sum(-1)
        logs = (power @ self._filters).clamp_(min=1e-10).log10_()
        logs = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0)
        return logs.add_(4.0).mul_(0.25).transpose(1, 2)


def filters(bands: int, size: int = WINDOW) -> Tensor:
    """`[size / 2 + 1, bands]` for spectra of `size` samples: triangles on the mel scale, each of area one."""
    top = mel(SAMPLE_RATE / 2)
    points = torch.tensor([hertz(top * n / (bands + 1)) for n in range(bands + 2)], dtype=torch.float64)
    bins = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (points[2:] - points[:-2])).float()


def mel(hz: float) -> float:
    """Place of a frequency on Slaney's scale."""
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return _BREAK_HZ / _LINEAR_HZ + math.log(hz / _BREAK_HZ) / _LOG_STEP


def hertz(mels: float) -> float:
    """The frequency at a place of the scale."""
    at_break = _BREAK_HZ / _LINEAR_HZ
    return mels * _LINEAR_HZ if mels < at_break else _BREAK_HZ * math.exp((mels - at_break) * _LOG_STEP)


def with_margin(rows: Sequence[Tensor], margins: Sequence[int], limit: int) -> list[Tensor]:
    """Each row [n] with so many samples of silence after it, rounded up to whole encoder frames; at most `limit`."""
    padded = []
    for row, margin in zip(rows, margins, strict=True):
        wanted = min(limit, -(-(len(row) + margin) // SAMPLES_PER_FRAME) * SAMPLES_PER_FRAME)
        padded.append(F.pad(row[:wanted], (0, max(0, wanted - len(row)))))
    return padded


class StreamingLogMel:
    """NeMo's log-mel of windows of a stream: natural logarithm, pre-emphasis, symmetric window, no normalisation.

    After transformers' `NemotronAsrStreamingFeatureExtractor`: frame t is centred on sample 160 t, and depends on the
    400 samples around it, of which those before the first count as silence; so any cut of a stream gives the same.
    """

    def __init__(self, bands: int = 80, emphasis: float = 0.97, device: str = "cpu") -> None:
        self._filters = filters(bands, 512).to(device)
        self._window = torch.hann_window(WINDOW, periodic=False, device=device)
        self._emphasis = emphasis

    def __call__(self, audio: Tensor) -> Tensor:
        """`audio` [B, HOP (T - 1) + WINDOW] float32 in -1..1 -> [B, T, bands]; frame 0 is centred on WINDOW / 2.

        The window is zero on its first sample, so the one before it is not missed.
        """
        sharp = torch.cat([audio[:, :1], audio[:, 1:] - self._emphasis * audio[:, :-1]], dim=1)
        spectrum = torch.fft.rfft(sharp.unfold(1, WINDOW, HOP) * self._window, n=512)
        return (torch.view_as_real(spectrum).square().sum(-1) @ self._filters).add_(2**-24).log_()
