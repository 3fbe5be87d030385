import { Conversation } from "/static/conversation.js";
import { h, milliseconds, place, show, span } from "/static/page.js";

const at = (name) => document.getElementById(name);
const RATE = 16_000, MESSAGE_MS = 100, MOST_BYTES = 200 * 2 ** 20, MOST_S = 3 * 3600;
let conversation = null, release = () => {};

function say(text) { at("state").textContent = text; }
function trouble(...parts) { show(at("trouble"), parts.map(String), parts.length ? h("p", { class: "note bad" }, parts) : []); }

function busy(is) {
  at("mic").disabled = at("model").disabled = at("record").disabled = at("file").disabled = is;
  at("file").parentElement.classList.toggle("off", is);
  at("stop").disabled = !is;
  if (!is) at("level").style.width = "0";
}

function figures() {
  const { begin, first, final, sentMs } = conversation.figures;
  at("begin").textContent = milliseconds(begin);
  at("first").textContent = milliseconds(first);
  at("final").textContent = milliseconds(final);
  at("audio").textContent = sentMs ? place(sentMs) : "–";
}

function turn(message) {
  at("nothing").hidden = true;
  if (!message.end_of_turn) {
    const lag = message.behind === undefined ? "" : `, ${milliseconds(message.behind)} behind`;
    at("partial").replaceChildren(...message.words.map((word) => h(word.word_is_final ? "b" : "span", {}, `${word.text} `)));
    say(`Listening${lag}.`);
    return;
  }
  const chips = [];
  if (message.first !== undefined) chips.push(`first partial ${milliseconds(message.first)}`);
  if (message.final !== undefined) chips.push(`final ${milliseconds(message.final)}`);
  chips.push(`confidence ${message.end_of_turn_confidence.toFixed(2)}`);
  if (message.language_code) chips.push(message.language_code);
  at("partial").replaceChildren();
  at("finals").append(h("div", { class: "turn" }, h("span", { class: "when" }, message.words.length ? place(message.words[0].start) : ""),
    h("p", {}, message.transcript), h("div", { class: "chips" }, chips.map((chip) => h("span", {}, chip)))));
}

function hear({ detail: message }) {
  if (message.type === "Begin") begun(message);
  if (message.type === "Turn") turn(message);
  if (message.type === "Error") {
    trouble(`The stack says: ${message.error} (${message.error_code}).`, message.error_code === 1008 ? " Is CONSOLE_API_KEY one of its keys?" : "");
  }
  figures();
}

function begun({ id, configuration }) {
  say("Listening.");
  const page = `/recordings/${encodeURIComponent(id)}`;
  if (configuration.recorded) show(at("recorded"), id, h("p", {}, "This session is recorded: ", h("a", { href: page, target: "_blank" }, "its page"), ", whole once it has ended."));
  else show(at("recorded"), id, at("record").checked ? h("p", { class: "dim" }, "It is not recorded: the stack does not allow it (RECORD).") : []);
}

async function converse(rate) {
  at("finals").replaceChildren(); at("partial").replaceChildren(); at("nothing").hidden = false;
  trouble(); show(at("recorded"), null); busy(true); say("Connecting …");
  conversation = new Conversation(rate, at("model").value, at("record").checked);
  conversation.addEventListener("message", hear);
  conversation.addEventListener("slow", () => trouble("The network is too slow for live audio."));
  conversation.addEventListener("over", ({ detail }) => {
    release(); release = () => {}; busy(false); figures();
    at("partial").replaceChildren();
    say(detail.code === 1000 ? "Ended." : `Ended with code ${detail.code}${detail.reason ? `: ${detail.reason}` : ""}.`);
    at("mic").focus();
  });
  await conversation.opened;
  return conversation;
}

async function microphone() {
  if (!navigator.mediaDevices) return trouble("The browser lends the microphone to pages over https, or on localhost, only.");
  trouble(); busy(true); say("Asking for the microphone …");
  let sound, stream, source;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    // Where a context at 16 kHz takes no microphone of another rate (Firefox), the stack converts.
    try { sound = new AudioContext({ sampleRate: RATE }); source = sound.createMediaStreamSource(stream); } catch {
      await sound?.close();
      sound = new AudioContext();
      source = sound.createMediaStreamSource(stream);
    }
    await sound.audioWorklet.addModule("/static/pcm-worklet.js");
    await sound.resume();
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop()); await sound?.close();
    busy(false); say("Ready.");
    return trouble(error.name === "NotAllowedError" ? "The microphone is not allowed here; the browser's settings for this page can change that." :
      error.name === "NotFoundError" ? "There is no microphone." : `The microphone cannot be used: ${error.message}`);
  }
  const worklet = new AudioWorkletNode(sound, "pcm", { numberOfOutputs: 0 });
  release = () => { source.disconnect(); stream.getTracks().forEach((track) => track.stop()); sound.close(); };
  // What is said while the connection opens waits in the port: nobody's first word is lost.
  source.connect(worklet);
  const joined = await converse(sound.sampleRate);
  worklet.port.onmessage = ({ data }) => {
    joined.send(data.pcm, Math.max(0, 1000 * (sound.currentTime - data.at))); level(data.peak); figures();
  };
}

function level(peak) { at("level").style.width = `${Math.round(100 * Math.min(1, Math.sqrt(peak)))}%`; }

/** A file's sound, one channel at 16 kHz. */
async function decode(file) {
  if (file.size > MOST_BYTES) throw new Error(`it has more than ${MOST_BYTES / 2 ** 20} MB`);
  const whole = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  if (whole.duration > MOST_S) throw new Error(`it is longer than ${span(MOST_S)}`);
  const channels = Array.from({ length: whole.numberOfChannels }, (_, channel) => whole.getChannelData(channel));
  return Int16Array.from(channels[0], (_, place) => 32767 * Math.max(-1, Math.min(1, channels.reduce((sum, channel) => sum + channel[place], 0) / channels.length)));
}

async function play(file) {
  let pcm;
  try { say(`Reading ${file.name} …`); pcm = await decode(file); } catch (error) {
    say("Ready."); return trouble(`${file.name} cannot be played: ${error.message || "it is no sound file this browser knows"}.`);
  }
  const joined = await converse(RATE), size = RATE * MESSAGE_MS / 1000, start = performance.now();
  let sent = 0;
  const next = () => {
    // A hidden page is woken once a second only: then all that is due goes out.
    while (joined.open && sent < pcm.length && performance.now() - start >= (Math.min(sent + size, pcm.length)) / RATE * 1000) {
      // At the end a message shorter than 50 ms would be refused; silence makes it whole.
      const message = new Int16Array(size);
      message.set(pcm.subarray(sent, sent + size));
      joined.send(message.buffer);
      level(message.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 32768);
      sent += size;
    }
    figures();
    if (sent >= pcm.length) { joined.finish(); say("The file is over; the last words are on their way."); } else if (joined.open) timer = setTimeout(next, MESSAGE_MS / 2);
  };
  let timer = setTimeout(next, 0);
  release = () => clearTimeout(timer);
}

async function models() {
  const answer = await fetch("/api/overview");
  if (answer.status === 401) return location.assign("/login");
  const { redis, pools = [] } = await answer.json();
  const served = pools.filter((pool) => pool.workers.length);
  const choices = served.flatMap((pool) => pool.speech_models.map((model) => h("option", { value: model }, `${model} (${pool.pool})`)));
  at("model").replaceChildren(h("option", { value: "" }, "What the stack chooses"), ...choices);
  if (!redis.up) trouble("Redis cannot be reached, so nobody can be heard.");
  else if (!served.length) trouble("No worker serves any pool, so nobody can be heard. Start one: steno worker english");
  const room = await (await fetch("/api/live")).json();
  if (!room.most) { at("mic").disabled = at("file").disabled = true; at("file").parentElement.classList.add("off"); say("Switched off here (CONSOLE_LIVE_SESSIONS is 0)."); }
}

at("mic").addEventListener("click", microphone);
at("file").addEventListener("change", () => { const [file] = at("file").files; at("file").value = ""; if (file) play(file); });
at("stop").addEventListener("click", () => { release(); release = () => {}; say("Waiting for the last words …"); conversation?.finish(); });
addEventListener("pagehide", () => conversation?.leave());
models();
