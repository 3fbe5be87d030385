// Gathers what the microphone gives into messages of 100 ms of 16-bit PCM, each with when it was whole, in the context's s.
class Pcm extends AudioWorkletProcessor {
  constructor() {
    super();
    this.message = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.peak = 0;
  }

  process([channels]) {
    const frames = channels[0]?.length ?? 0;
    for (let at = 0; at < frames; at++) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
      const value = Math.max(-1, Math.min(1, sum / channels.length));
      this.peak = Math.max(this.peak, Math.abs(value));
      this.message[this.filled++] = Math.round(value * 32767);
      if (this.filled === this.message.length) {
        this.port.postMessage({ pcm: this.message.buffer, peak: this.peak, at: currentTime }, [this.message.buffer]);
        this.message = new Int16Array(Math.round(sampleRate / 10));
        this.filled = 0;
        this.peak = 0;
      }
    }
    return true;
  }
}
registerProcessor("pcm", Pcm);
