// What makes the pages live. Everything also works without it: forms post, pages refresh themselves.
"use strict";
const language = document.documentElement.lang;
let service = document.documentElement.dataset.service;

function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    element.title = at.toISOString().replace("T", " ").slice(0, 19) + " UTC";
    element.textContent = at.toLocaleString(language, { dateStyle: "medium", timeStyle: "seconds" in element.dataset ? "medium" : "short" });
  }
}

// Money ticks by itself between two looks at the service: micro-units at a moment, nano-units per hour from there on.
function tick() {
  for (const element of document.querySelectorAll("[data-nano-per-hour]")) {
    const seconds = Math.max(0, Date.now() / 1000 - Number(element.dataset.asOf));
    const micro = Number(element.dataset.micro) + (Number(element.dataset.nanoPerHour) * seconds) / 3.6e6;
    // What is not nothing never shows as zero.
    const digits = Number(element.dataset.nanoPerHour) > 0 ? 4 : micro === 0 || micro >= 5000 ? 2 : micro >= 50 ? 4 : 6;
    // Rounded as whole micro-units: 0.00035 is a little less in binary and would lose a place that the other pages show.
    const step = 10 ** (6 - digits);
    element.textContent = element.dataset.symbol + ((Math.round(micro / step) * step) / 1e6).toFixed(digits);
  }
}

// Put the fresh part in the place of the old one; what is unfolded, scrolled or focused stays so.
function exchange(part, fresh) {
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const focusable = "a, button, input, select, summary, [tabindex]";
  const active = document.activeElement, index = all(part, focusable).indexOf(active);
  all(fresh, "details").forEach((element, n) => { element.open = all(part, "details")[n]?.open ?? element.open; });
  const scrolled = all(part, ".t-scroll").map((element) => element.scrollLeft);
  fresh.dataset.last = part.dataset.last || 0;
  part.replaceWith(fresh);
  all(fresh, ".t-scroll").forEach((element, n) => { element.scrollLeft = scrolled[n] || 0; });
  const again = index < 0 ? null : all(fresh, focusable)[index];
  if (again && again.textContent === active.textContent) again.focus({ preventScroll: true });
}

// A part of the page marked data-live is fetched again every so many seconds and replaced where it changed.
async function refresh(part) {
  try {
    // A service that hangs is away, too.
    const limit = { signal: AbortSignal.timeout(10_000) };
    const answer = await fetch(location.href, { headers: { "X-Tessera-Request": "1" }, redirect: "manual", ...limit });
    if (answer.type === "opaqueredirect" || answer.status === 401) { location.reload(); return; }
    const restarted = document.body.classList.contains("t-offline") || answer.headers.get("X-Tessera-Service") !== service;
    document.body.classList.toggle("t-offline", !answer.ok);
    if (!answer.ok) return;
    service = answer.headers.get("X-Tessera-Service");
    if (restarted) for (const open of streams) open();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
    if (!fresh) { location.reload(); return; }
    if (fresh.dataset.goto) { location.href = fresh.dataset.goto; return; }
    localTimes(fresh);
    if (fresh.innerHTML !== part.innerHTML) exchange(part, fresh);
    else part.dataset.live = fresh.dataset.live || "";
    tick();
  } catch { document.body.classList.add("t-offline"); }
}
function schedule() {
  for (const part of document.querySelectorAll("[data-live]")) {
    const seconds = Number(part.dataset.live);
    const due = Number(part.dataset.last || 0) + seconds * 1000;
    if (seconds > 0 && !document.hidden && Date.now() >= due) { part.dataset.last = Date.now(); refresh(part); }
  }
  const offline = document.getElementById("t-offline");
  if (offline) offline.classList.toggle("t-hide", !document.body.classList.contains("t-offline"));
}

// The output as it comes. A browser reconnects by itself after a cut, but not after an error page, and it does not notice that
// the service behind the front door has died: in both cases the stream is opened anew from where it was.
const streams = [];
function liveLog(element) {
  let source = null, seen = "", run = null;
  const open = () => {
    if (source) source.close();
    source = new EventSource(`${element.dataset.follow}?after=${encodeURIComponent(seen)}`);
    for (const kind of ["task", "log", "notebook"]) source.addEventListener(kind, (event) => { seen = event.lastEventId || seen; });
    source.addEventListener("log", (event) => {
      const end = element.scrollTop + element.clientHeight >= element.scrollHeight - 30;
      if (element.dataset.empty) { element.textContent = ""; delete element.dataset.empty; }
      const piece = JSON.parse(event.data);
      // A new attempt has a log of its own.
      if (run !== null && run !== piece.run_id) element.textContent = "";
      run = piece.run_id;
      element.append(piece.text);
      if (end) element.scrollTop = element.scrollHeight;
    });
    source.addEventListener("end", () => { source.close(); streams.splice(streams.indexOf(open), 1); });
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) setTimeout(open, 2000); });
  };
  streams.push(open);
  // A browser opens six connections to a host and a stream holds one of them, so what nobody looks at lets it go.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source?.close();
    else if (streams.includes(open)) open();
  });
  open();
}

function workspaceForm(form) {
  const summary = document.getElementById("summary");
  let timer = 0, number = 0;
  const pair = (range, field) => {
    if (!range || !field) return;
    range.addEventListener("input", () => { field.value = range.value; memory(); });
    field.addEventListener("input", () => { range.value = field.value; memory(); });
  };
  const memory = () => {
    const card = form.querySelector('input[name="card_class"]:checked');
    const field = form.elements.card_memory;
    if (card && field) field.placeholder = ((Number(card.dataset.memoryMib) * Number(form.elements.share.value)) / 102400).toFixed(1);
  };
  const show = () => {
    const compute = form.elements.compute.value;
    for (const part of form.querySelectorAll("[data-when]")) part.classList.toggle("t-hide", !part.dataset.when.split(" ").includes(compute));
    // What is chosen but cannot be had in this way gives place to the first that can.
    const chosen = form.querySelector('input[name="card_class"]:checked');
    if (chosen && chosen.parentElement.classList.contains("t-hide")) {
      const first = form.querySelector('[data-when]:not(.t-hide) > input[name="card_class"]');
      if (first) first.checked = true;
    }
  };
  const look = async () => {
    const mine = ++number;
    const answer = await fetch(form.dataset.summary, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { "X-Tessera-Request": "1" } }).catch(() => null);
    if (answer && answer.ok && mine === number) { summary.innerHTML = await answer.text(); }
  };
  pair(document.getElementById("share-range"), document.getElementById("share"));
  pair(document.getElementById("cpu-range"), document.getElementById("cpu"));
  pair(document.getElementById("memory-range"), document.getElementById("memory"));
  form.addEventListener("input", () => { show(); clearTimeout(timer); timer = setTimeout(look, 250); });
  form.addEventListener("submit", () => { setTimeout(() => { for (const b of form.querySelectorAll("button.t-start")) b.disabled = true; }, 0); });
  show(); memory();
  setInterval(() => { if (!document.hidden) look(); }, 10000);
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  const form = document.getElementById("workspace-form");
  if (form) workspaceForm(form);
  for (const element of document.querySelectorAll("[data-follow]")) liveLog(element);
  setInterval(tick, 1000); setInterval(schedule, 1000); tick();
});
