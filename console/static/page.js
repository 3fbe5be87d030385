// What all pages share: making elements, asking again and again, writing times and numbers.

/** An element: h("td", {class: "num"}, "12"). Text is never read as HTML. */
export function h(tag, traits = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.flat().filter((part) => part !== null && part !== undefined));
  return made;
}

/** Put `parts` into `place` if `of` differs from what is there; whoever had the focus gets it back. */
export function show(place, of, ...parts) {
  const now = JSON.stringify(of);
  if (place.dataset.of === now) return;
  place.dataset.of = now;
  const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
  place.replaceChildren(...parts.flat());
  if (focused) document.getElementById(focused)?.focus();
}

/** The answer and its JSON; nothing where nobody answers in time, or with something else. */
async function asked(url) {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(10_000), headers: { Accept: "application/json" } });
    return [answer, await answer.json()];
  } catch { return []; }
}

/** Ask `url()` every `period` ms, for as long as the page is seen; a server that fails is asked more rarely. */
export function poll(url, period, heard, failed) {
  const pulse = document.getElementById("pulse");
  let pause = period, over = false;
  async function ask() {
    if (over) return;
    if (!document.hidden) {
      const [answer, told] = await asked(url());
      if (answer?.status === 401) return location.assign("/login");
      pulse.textContent = answer ? "" : "The console does not answer; trying again.";
      pause = answer ? period : Math.min(2 * pause, 30_000);
      if (answer?.ok) heard(told); else if (answer) failed?.(answer.status, told);
    }
    setTimeout(ask, pause);
  }
  ask();
  return () => { over = true; };
}

/** A bar that is `share` full. */
export function meter(share, label, full = false) {
  const inner = h("div");
  inner.style.width = `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
  return h("div", { class: full ? "meter full" : "meter", role: "img", "aria-label": label }, inner);
}

/** Names and values, in lines. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "num" }, value))));
}

/** A table that becomes cards on a phone. `head`: [title, class]; `rows`: lists of cells. */
export function table(caption, head, rows) {
  return h("table", { class: "rows" }, h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, head.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) =>
      h("td", { class: head[at][1], "data-of": head[at][0] }, h("span", {}, ...[cell].flat())))))));
}

export const milliseconds = (ms) => ms === null ? "–" : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 9950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** 75 s -> "1 min 15 s", with two units at most. */
export function span(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [size, name] of units) {
    if (left >= size || (size === 1 && !parts.length)) { parts.push(`${Math.floor(left / size)} ${name}`); left %= size; }
  }
  return parts.slice(0, 2).join(" ");
}

/** Today the time of day, within some days the date and the time, else the date. */
export function moment(ms) {
  const at = new Date(ms), far = Math.abs(ms - Date.now()) > 7 * 86_400_000;
  const day = { year: far ? "numeric" : undefined, month: "short", day: "numeric" }, time = { hour: "2-digit", minute: "2-digit" };
  const parts = new Date().toDateString() === at.toDateString() ? { ...time, second: "2-digit" } : far ? day : { ...day, ...time };
  return h("time", { datetime: at.toISOString(), title: at.toLocaleString() }, at.toLocaleString(undefined, parts));
}

/** A place in audio: 83_400 ms -> 1:23.4 */
export function place(ms) {
  const tenths = Math.round(ms / 100), seconds = Math.floor(tenths / 10);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}.${tenths % 10}`;
}
