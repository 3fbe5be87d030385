"use strict";
// The sound and the words in step: what plays is marked, what is clicked plays.
const sound = document.getElementById("sound"), now = document.getElementById("now");
const strips = [...document.querySelectorAll(".strip")].map((strip) =>
  ({ from: Number(strip.dataset.from), to: Number(strip.dataset.to), cursor: strip.querySelector(".cursor"), seen: false }));
const words = [...document.querySelectorAll(".final .w")].map((word) => [Number(word.dataset.s), Number(word.dataset.e), word]).sort((a, b) => a[0] - b[0]);
let marked = null;

function clock(ms) { return `${Math.floor(ms / 60000)}:${(ms / 1000 % 60).toFixed(2).padStart(5, "0")}`; }

function mark() {
  const ms = sound.currentTime * 1000;
  now.textContent = clock(ms);
  for (const strip of strips) {
    const inside = ms >= strip.from && ms < strip.to;
    if (inside !== strip.seen) strip.cursor.style.display = (strip.seen = inside) ? "block" : "none";
    if (inside) strip.cursor.style.left = `${100 * (ms - strip.from) / (strip.to - strip.from)}%`;
  }
  const spoken = words.find(([start, end]) => ms >= start - 1 && ms < end)?.[2] ?? null;
  if (spoken !== marked) { marked?.classList.remove("now"); spoken?.classList.add("now"); marked = spoken; }
}

function follow() { mark(); if (!sound.paused) requestAnimationFrame(follow); }

function seek(ms, play) {
  sound.currentTime = ms / 1000;
  mark();
  if (play) sound.play().catch(() => {});
}

if (sound) {
  sound.addEventListener("play", follow);
  for (const kind of ["seeked", "timeupdate", "pause"]) sound.addEventListener(kind, mark);
  document.addEventListener("click", (event) => {
    const place = event.target.closest("[data-s]:not(a)"), strip = event.target.closest(".strip");
    if (place) seek(Number(place.dataset.s), true);
    else if (strip) {
      const { left, width } = strip.getBoundingClientRect(), from = Number(strip.dataset.from), to = Number(strip.dataset.to);
      seek(from + (to - from) * (event.clientX - left) / width, !sound.paused);
    }
  });
  mark();
}

// One word of a turn is reached with Tab, the others with the arrows.
for (const turn of document.querySelectorAll(".turn")) {
  const own = [...turn.querySelectorAll("button.w")];
  if (own.length) own[0].tabIndex = 0;
  turn.addEventListener("keydown", (event) => {
    const at = own.indexOf(document.activeElement), to = at + { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at < 0 || !own[to]) return;
    event.preventDefault();
    own[at].tabIndex = -1;
    own[to].tabIndex = 0;
    own[to].focus();
  });
}
document.documentElement.dataset.height = document.documentElement.scrollHeight;
