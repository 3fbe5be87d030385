import { h, moment, place, plural, poll, show, span, table } from "/static/page.js";

const at = document.getElementById("recordings");
const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

function state(one) {
  if (one.fault) return h("span", { class: "bad" }, one.fault);
  const told = one.outcome || "running, or its node died";
  return one.cut ? `${told}; reached its size` : told;
}

function row(one) {
  const page = `/recordings/${encodeURIComponent(one.session)}`;
  return [h("a", { href: page, id: `r-${one.session}`, class: "id", title: one.session }, one.session.slice(0, 8)), moment(one.since_ms), one.pool || "–", one.key || "–",
    one.audio_ms === null ? "–" : place(one.audio_ms), state(one), `${size(one.bytes)}${one.sealed ? ", encrypted" : ""}`, span(one.left_s),
    h("a", { href: `${page}?save`, "aria-label": `Save ${one.session.slice(0, 8)}` }, "Save")];
}

function heard(told) {
  if (!told.recordings.length) {
    show(at, "none", h("p", { class: "empty" }, h("b", {}, "No recordings. "), "Recording is off unless you switch it on: ", h("code", {}, "RECORD=ask"),
      " at the ingress records sessions that ask for it with ", h("code", {}, "record=true"), ". What is recorded is kept for a while, then erased."));
    return;
  }
  const head = [["Recording"], ["Began", "num"], ["Pool"], ["Key"], ["Audio", "num"], ["Ended"], ["Size", "num"], ["Kept for", "num"], [""]];
  show(at, told, h("p", { class: "dim" }, `${plural(told.count, "recording")}, ${size(told.bytes)} in all.${told.count > told.recordings.length ? " The newest are shown." : ""}`),
    table("Recorded sessions, newest first", head, told.recordings.map(row)));
}

poll(() => "/api/recordings", 10_000, heard, (status, told) => show(at, told, h("p", { class: "note bad" }, told.error)));
