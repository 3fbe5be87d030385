// One session with the stack: audio out, messages in, delays measured. It knows nothing of the page.

const middle = (values) => { const sorted = [...values].sort((a, b) => a - b); return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null; };
/** More than this waits for the network: speaking on would only make it worse, in bytes (30 s). */
const MOST_WAITING = 960_000;

export class Conversation extends EventTarget {
  #socket; #spokenFrom = null; #connectedAt = performance.now(); #seen = new Map(); #terminated = false;
  begin = null; first = []; final = []; sentMs = 0;

  constructor(rate, model, record) {
    super();
    this.rate = rate;
    const query = new URLSearchParams({ sample_rate: rate, format_turns: "true" });
    if (model) query.set("speech_model", model);
    if (record) query.set("record", "true");
    this.#socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live?${query}`);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = (event) => this.#hear(JSON.parse(event.data));
    this.#socket.onclose = (event) => this.#tell("over", { code: event.code, reason: event.reason });
    this.opened = new Promise((resolve) => {
      this.#socket.onopen = () => { if (this.#terminated) this.#terminate(); resolve(); };
      this.addEventListener("over", resolve);
    });
  }

  get open() { return this.#socket.readyState === WebSocket.OPEN; }
  get figures() { return { begin: this.begin, first: middle(this.first), final: middle(this.final), sentMs: this.sentMs }; }

  /** 16-bit PCM whose last sample was spoken `heldMs` ago. */
  send(pcm, heldMs = 0) {
    if (!this.open || this.#terminated) return;
    if (this.#socket.bufferedAmount > MOST_WAITING) { this.#tell("slow", {}); this.finish(); return; }
    const ms = pcm.byteLength / 2 / this.rate * 1000;
    this.#spokenFrom ??= performance.now() - ms - heldMs;
    this.sentMs += ms;
    this.#socket.send(pcm);
  }

  /** No more audio: the last words come, then the end. Also while the connection opens. */
  finish() {
    if (this.#terminated) return;
    this.#terminated = true;
    if (this.open) this.#terminate();
  }

  leave() { this.#socket.close(); }

  #terminate() { this.#socket.send('{"type":"Terminate"}'); }

  #tell(kind, detail) { this.dispatchEvent(new CustomEvent(kind, { detail })); }

  #hear(message) {
    const now = performance.now();
    if (message.type === "Begin") this.begin = now - this.#connectedAt;
    if (message.type === "Turn" && message.words.length && this.#spokenFrom !== null) this.#measure(message, now - this.#spokenFrom);
    this.#tell("message", message);
  }

  #measure(turn, ms) {
    const seen = this.#seen.get(turn.turn_order) ?? ms, first = turn.words[0], last = turn.words.at(-1);
    this.#seen.set(turn.turn_order, seen);
    turn.behind = ms - last.end;
    if (!turn.end_of_turn) return;
    this.#seen.delete(turn.turn_order);
    this.first.push(turn.first = seen - first.start);
    if (!this.#terminated) this.final.push(turn.final = ms - last.end);
  }
}
