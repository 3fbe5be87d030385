import { facts as lines, h, place, poll, show } from "/static/page.js";

const at = (name) => document.getElementById(name);
const session = decodeURIComponent(location.pathname.split("/").pop());
const turns = new Map();
let after = "", heardMs = 0, known = false, recorded = false;

function take(event) {
  heardMs = Math.max(heardMs, event.audio_ms);
  if (!event.text || event.event !== "MESSAGE") return;
  const message = JSON.parse(event.text);
  if (message.type !== "Turn") return;
  const turn = turns.get(message.turn_order) ?? { rows: 0 };
  turns.set(message.turn_order, { ...message, rows: turn.rows + 1 });
}

function turn(told) {
  const words = told.words.map((word) => h(word.word_is_final ? "b" : "span", {}, `${word.text} `));
  const text = told.end_of_turn ? told.transcript : words.length ? words : told.transcript;
  const chips = [told.end_of_turn ? `final, confidence ${told.end_of_turn_confidence.toFixed(2)}` : "open", `${told.rows} messages`];
  if (told.language_code) chips.push(told.language_code);
  return h("div", { class: told.end_of_turn ? "turn" : "turn open" }, h("span", { class: "when" }, told.words.length ? place(told.words[0].start) : "–"),
    h("p", {}, text), h("div", { class: "chips" }, chips.map((chip) => h("span", {}, chip))));
}

function facts(told) {
  const rows = [["Pool", told.pool], ["Model", told.model], ["Taken", told.generation === 1 ? "once" : `${told.generation} times`], ["Heard", place(heardMs)],
    ["Recorded", told.recorded ? h("a", { href: `/recordings/${encodeURIComponent(session)}` }, "its page, so far") : "no"],
    ...Object.entries(told.params).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)])];
  return h("div", { class: "card" }, lines(rows));
}

function heard(told) {
  known = true;
  recorded = told.facts.recorded;
  told.events.forEach(take);
  after = told.after;
  show(at("state"), "open", h("p", { class: "dot good" }, "Open"));
  const newest = [...turns.values()].reverse();
  show(at("turns"), newest, newest.length ? newest.map(turn) : h("p", { class: "empty" }, "No words yet."));
  show(at("facts"), [told.facts, heardMs], facts(told.facts));
}

at("name").textContent = session;
const end = poll(() => `/api/sessions/${encodeURIComponent(session)}?after=${after}`, 1_000, heard, (status, told) => {
  if (status === 404) {
    end();
    show(at("state"), "over", h("p", { class: "empty" }, h("b", {}, known ? "The session has ended. " : "No such session is open. "),
      recorded ? ["Its ", h("a", { href: `/recordings/${encodeURIComponent(session)}` }, "recording"), " tells how it went."] :
        ["If it was recorded, it is among the ", h("a", { href: "/recordings" }, "recordings"), "."]));
  } else show(at("state"), told, h("p", { class: "note bad" }, told.error));
});
