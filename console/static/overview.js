import { facts, h, meter, milliseconds, moment, plural, poll, show, span, table } from "/static/page.js";

const at = (name) => document.getElementById(name);
const KINDS = { Connected: "good", TrustBased: "warn", Ready: "warn", Failed: "bad", Silent: "bad" };

function tile(what, value, more, kind) {
  return h("div", { class: "card tile" }, h("p", { class: "what" }, what),
    h("p", { class: kind ? `value dot ${kind}` : "value num" }, value), h("p", { class: "more" }, more));
}

function tiles(told) {
  const slots = told.pools.reduce((sum, pool) => sum + pool.slots, 0), used = told.pools.reduce((sum, pool) => sum + pool.used, 0);
  const waiting = told.pools.reduce((sum, pool) => sum + pool.waiting, 0), licence = told.license;
  const until = licence.trust_until_ms ? ["Trusted until ", moment(licence.trust_until_ms)] : licence.meaning;
  const limit = licence.max_sessions ? `, at most ${plural(licence.max_sessions, "session")}` : "";
  const flat = licence.billing === "flat" && !told.usage.waiting;
  return [
    tile("Sessions now", String(Math.max(told.sessions.length, capped(told) ? used + waiting : 0)), slots ? `${used} of ${plural(slots, "slot")} taken` : "No workers"),
    tile("Waiting", String(waiting), waiting ? "More workers would take them" : "Nobody waits"),
    tile("Licence", licence.state, licence.state === "Connected" ? [until, limit].flat() : licence.meaning, KINDS[licence.state]),
    tile("Usage to report", flat ? "None" : String(told.usage.waiting), flat ? "Flat billing: nothing is tracked" :
      told.usage.waiting ? `Oldest since ${span(told.usage.oldest_s)}` : "All is counted"),
  ];
}

function pool(told) {
  if (!told.workers.length) {
    return h("article", { class: "card pool absent" }, h("header", {}, h("h3", {}, told.pool), h("span", { class: "dim" }, "not served")),
      h("p", { class: "dim" }, "No worker. Start one with ", h("code", {}, `steno worker ${told.pool}`)));
  }
  const share = told.slots ? told.used / told.slots : 0;
  return h("article", { class: "card pool" }, h("header", {}, h("h3", {}, told.pool), h("span", { class: "num" }, `${told.used} of ${told.slots} slots`)),
    meter(share, `${Math.round(100 * share)} % of the slots are taken`, share >= 1),
    facts([["Model", told.models.join(", ") || "–"], ["Workers", String(told.workers.length)],
      ["Worst backlog", told.backlog_ms ? `${milliseconds(told.backlog_ms)} of audio` : "none"],
      ["Waiting sessions", String(told.waiting)]]));
}

/** Whether there are more sessions than are listed: the newest of each pool are. */
const capped = (told) => told.pools.some((pool) => told.sessions.filter((one) => one.pool === pool.pool).length >= 200);

function sessions(told) {
  if (!told.sessions.length) {
    return h("p", { class: "empty" }, h("b", {}, "Nobody is speaking. "), "Sessions appear here while they are open. ", h("a", { href: "/try" }, "Start one"), ".");
  }
  const rows = table("Sessions that are open now", [["Session"], ["Pool"], ["Model"], ["Worker"], ["Open since", "num"]], told.sessions.map((one) => [
    h("a", { href: `/sessions/${encodeURIComponent(one.session)}`, id: `s-${one.session}`, class: "id", title: one.session }, one.session.slice(0, 8)),
    one.pool, one.recorded ? [one.model, " ", h("span", { class: "badge" }, "recorded")] : one.model, one.worker ? h("span", { class: "id" }, one.worker.slice(0, 24), one.takes > 1 ? ` (taken ${one.takes} times)` : "") : h("span", { class: "warn" }, "waits"),
    moment(one.since_ms)]));
  return capped(told) ? [h("p", { class: "dim" }, "The newest 200 of each pool."), rows] : rows;
}

function delays(told) {
  const { urls, missed, delays: rows } = told.metrics;
  if (!urls) {
    return [h("p", { class: "empty" }, h("b", {}, "No figures. "), "Say where the services' metrics are, with ", h("code", {}, "CONSOLE_METRICS_URLS"), ", and delays are shown here.")];
  }
  const lost = missed.length ? [h("p", { class: "warn" }, `No answer from ${missed.join(", ")}.`)] : [];
  if (!rows.length) return [...lost, h("p", { class: "empty" }, h("b", {}, "Nothing measured yet. "), "Delays appear with the first session.")];
  const most = Math.max(...rows.map((row) => row.p95_ms));
  return [...lost, table("Delays, estimated from histograms", [["What"], ["Median", "num"], ["95 % within", "num"], [""], ["Counted", "num"]], rows.map((row) => [
    row.meaning, milliseconds(row.p50_ms), milliseconds(row.p95_ms), meter(row.p95_ms / most, `p95 ${milliseconds(row.p95_ms)}`),
    `${row.count} ${row.window_s === null ? "since the start" : `in ${span(row.window_s)}`}`]))];
}

function heard(told) {
  if (!told.redis.up) {
    show(at("trouble"), told.redis, h("p", { class: "note bad" }, `Nothing is known. ${told.redis.reason}`));
    for (const name of ["tiles", "pools", "sessions"]) show(at(name), null, h("p", { class: "empty" }, "Unknown while Redis is away."));
  } else {
    show(at("trouble"), null);
    show(at("tiles"), [told.pools, told.license, told.usage, told.sessions.length], tiles(told));
    show(at("pools"), told.pools, told.pools.map(pool));
    show(at("sessions"), told.sessions, sessions(told));
  }
  show(at("delays"), told.metrics, delays(told));
}

poll(() => "/api/overview", 2_000, heard);
