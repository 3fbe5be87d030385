// The official SDK for JavaScript against a server of your own. STENO_URL=wss://... node sdk.mjs talk.wav
import { readFileSync } from "node:fs";
import { AssemblyAI } from "assemblyai";

const url = process.env.STENO_URL ?? "wss://localhost:8080";
const audio = readFileSync(process.argv[2]).subarray(44); // behind the header of a WAV file
const client = new AssemblyAI({ apiKey: "self-hosted" });
const transcriber = client.streaming.transcriber({ websocketBaseUrl: `${url}/v3/ws`, sampleRate: 16000, formatTurns: true });
transcriber.on("turn", (turn) => turn.end_of_turn && console.log(turn.transcript));
transcriber.on("error", (error) => console.error(error.message));
await transcriber.connect();
for (let at = 0; at < audio.length; at += 3200) transcriber.sendAudio(Uint8Array.from(audio.subarray(at, at + 3200)).buffer);
await transcriber.close(true);
