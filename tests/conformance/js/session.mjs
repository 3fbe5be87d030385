// One session of the official JS SDK, as `tests/clients.py` has drivers: job in, the SDK's events out.
//
// Steps: say(file, channel if there are two), wait, update(fields), force, keep_alive, and at the end close(milliseconds to wait for Termination).
// Options are those of `streaming.transcriber`; of these `token: "ask"` asks the server for a token first.
import { readFileSync } from "node:fs";
import { AssemblyAI } from "assemblyai";

const CHUNK_MS = 100;
const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const told = {};
let changed = () => {};

function tell(event, fields = {}) {
  told[event] = (told[event] ?? 0) + 1;
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
  changed();
}

// What the SDK tells only on the console: that it tries again, and whatever it does not like.
console.warn = (text) => tell(/^Streaming connect attempt/.test(text) ? "retry" : "complaint", { text });

async function waitFor(event, count) {
  const timeout = setTimeout(() => {
    process.stderr.write(`in vain: ${event} x ${count}; so far ${JSON.stringify(told)}\n`);
    process.exit(1);
  }, job.patience_s * 1000);
  while ((told[event] ?? 0) < count) await new Promise((resolve) => (changed = resolve));
  clearTimeout(timeout);
}

const http = job.url.replace(/^wss:/, "https:");
const client = new AssemblyAI({ apiKey: "any", streamingBaseUrl: http });
const options = { websocketBaseUrl: `${job.url}/v3/ws`, sampleRate: 16000, ...job.options };
if (options.token === "ask") {
  options.token = await client.streaming.createTemporaryToken({ expires_in_seconds: 60 });
}
const transcriber = client.streaming.transcriber(options);
transcriber.on("open", (begin) => tell("open", begin));
transcriber.on("turn", (turn) => {
  tell("turn", { turn });
  if (turn.end_of_turn) tell("final", { text: turn.transcript });
});
transcriber.on("error", (error) => tell("error", { text: error.message, code: error.code }));
transcriber.on("close", (code, reason) => tell("close", { code, reason }));
for (const other of ["speechStarted", "warning", "heartbeat", "silence", "speakerRevision", "llmGatewayResponse"]) {
  transcriber.on(other, (message) => tell(other, { message }));
}

const act = {
  say(path, channel) {
    const audio = readFileSync(path);
    const size = (2 * CHUNK_MS * options.sampleRate) / 1000;
    for (let start = 0; start < audio.length; start += size) {
      const chunk = audio.buffer.slice(audio.byteOffset + start, audio.byteOffset + Math.min(start + size, audio.length));
      transcriber.sendAudio(chunk, channel ? { channel } : undefined);
    }
  },
  wait: waitFor,
  update: (fields) => transcriber.updateConfiguration(fields),
  force: () => transcriber.forceEndpoint(),
  keep_alive: () => transcriber.keepAlive(),
  async close(timeoutMs) {
    const asked = performance.now();
    await transcriber.close(true, timeoutMs);
    tell("closed", { took_ms: Math.round(performance.now() - asked) });
  },
};

try {
  await transcriber.connect();
} catch (error) {
  tell("rejected", { text: error.message, code: error.code });
  process.exit(0);
}
for (const [what, ...args] of job.steps) await act[what](...args);
