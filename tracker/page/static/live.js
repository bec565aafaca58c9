// A page that changes while it is looked at. The server sends pictures (tracker/page/picture.py): pieces of HTML that it
// has escaped, each with an id, and values that are drawn here. Without this script the page reloads itself (noscript).
"use strict";

const HOUR_SECONDS = 3600;
const YOUNG_SECONDS = 120;
const values = { graph: {}, cells: {}, names: {}, map: {} };
const pieces = window.trustedTypes
  ? window.trustedTypes.createPolicy("upswarm", { createHTML: (html) => html })
  : { createHTML: (html) => html };

// --- pieces of HTML ---

function made(html) {
  const template = document.createElement("template");
  template.innerHTML = pieces.createHTML(html);
  return template.content.firstElementChild;
}

// Makes `old` look like `fresh` and keeps what need not change: focus, selection, and what CSS is just animating.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const was = [...old.childNodes];
  const is = [...fresh.childNodes];
  is.forEach((child, place) => (place < was.length ? morph(was[place], child) : old.append(child)));
  was.slice(is.length).forEach((child) => child.remove());
}

function arrange(region, ids, html) {
  const root = document.querySelector(`[data-region="${region}"]`);
  if (!root) return;
  const known = new Map([...root.children].map((child) => [child.id, child]));
  ids.forEach((id, place) => {
    const child = known.get(id) ?? made(html[id]);
    known.delete(id);
    if (root.children[place] !== child) root.insertBefore(child, root.children[place] ?? null);
  });
  known.forEach((child) => child.remove());
}

// --- times: the server does not know where the reader lives ---

function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    const today = date.toDateString() === new Date().toDateString();
    const full = date.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
    const text = today ? date.toLocaleTimeString([], { timeStyle: "medium" }) : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
    time.title = full;
    time.textContent = text;
  }
}

// --- numbers ---

function size(count) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (count < 1024) return `${unit === "B" || count >= 100 ? count.toFixed(0) : count.toFixed(1)} ${unit}`;
    count /= 1024;
  }
  return `${count.toFixed(1)} TiB`;
}

// --- the graph of the last hour ---

let plot = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function graphData() {
  const times = Object.keys(values.graph).map(Number).sort((a, b) => a - b);
  return [times, times.map((at) => values.graph[at])];
}

function options(root) {
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width: root.clientWidth,
    height: root.clientHeight,
    padding: [10, 28, 0, 4],
    legend: { show: false },
    cursor: { y: false, drag: { setScale: false }, points: { size: 7 } },
    scales: {
      // A tracker that has just started has no hour to show.
      x: { range: (_, oldest, newest) => { const end = newest ?? Date.now() / 1000; return [Math.max(end - HOUR_SECONDS, Math.min(oldest ?? end, end - YOUNG_SECONDS)), end]; } },
      y: { range: (_, __, most) => [0, Math.max(most ?? 0, 64 * 1024) * 1.1] },
    },
    series: [{}, { stroke: colour("--accent"), fill: colour("--accent-soft"), width: 2, points: { show: false } }],
    axes: [
      { ...axis, size: 30, space: 80, values: (_, splits) => splits.map((at) => new Date(at * 1000).toLocaleTimeString([], { timeStyle: splits[1] - splits[0] < 60 ? "medium" : "short" })) },
      { ...axis, size: 76, values: (_, splits) => splits.map((rate) => (rate ? `${size(rate)}/s` : "0")), incrs: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].flatMap((step) => [step * 1024]).concat([1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map((step) => step * 2 ** 20), [1, 2, 4, 8, 16].map((step) => step * 2 ** 30)) },
    ],
  };
}

function drawGraph() {
  const root = document.getElementById("graph");
  if (!root || !window.uPlot) return;
  if (plot === null) {
    root.replaceChildren();
    plot = new uPlot(options(root), graphData(), root);
    new ResizeObserver(() => plot.setSize({ width: root.clientWidth, height: root.clientHeight })).observe(root);
  } else {
    plot.setData(graphData());
  }
  const rates = graphData()[1];
  const most = rates.length ? Math.max(...rates) : 0;
  root.setAttribute("aria-label", `Throughput into storage during the last hour; highest ${size(most)} per second`);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (plot !== null) {
    plot.destroy();
    plot = null;
    drawGraph();
  }
});

// --- the chunk map ---

function drawCells(changed) {
  const root = document.getElementById("cells");
  if (!root) return;
  for (const [place, cell] of Object.entries(changed)) {
    while (root.children.length <= Number(place)) root.append(document.createElement("i"));
    const element = root.children[place];
    const looked = element.classList.contains("looked");
    element.className = cell;
    element.classList.toggle("looked", looked);
  }
  sayCell(document.activeElement?.id === "cell");
}

function sayCell(looking) {
  const root = document.getElementById("cells");
  const slider = document.getElementById("cell");
  const { chunks, per_cell: perCell } = values.map;
  if (!root || !slider || !chunks) return;
  const place = Number(slider.value);
  root.querySelector(".looked")?.classList.remove("looked");
  if (looking) root.children[place]?.classList.add("looked");
  const classes = (values.cells[place] ?? "m").split(" ");
  const states = { s: "stored", w: "on its way", m: "missing", p1: "stored in part", p2: "stored in part", p3: "stored in part" };
  const sender = classes.find((word) => word.startsWith("o"));
  const name = sender ? values.names[sender.slice(1)] ?? "a node" : null;
  const first = place * perCell + 1;
  const last = Math.min(chunks, first + perCell - 1);
  const which = first === last ? `chunk ${first} of ${chunks}` : `chunks ${first} to ${last} of ${chunks}`;
  const how = name ? (classes[0] === "w" ? `, from ${name}` : `, pushed by ${name}`) : "";
  document.getElementById("cell-says").textContent = `${which}: ${states[classes[0]]}${how}`;
}

function watchCells() {
  const root = document.getElementById("cells");
  const slider = document.getElementById("cell");
  if (!root || !slider) return;
  document.getElementById("look").hidden = false;
  slider.addEventListener("input", () => sayCell(true));
  slider.addEventListener("blur", () => sayCell(false));
  root.addEventListener("pointerleave", () => sayCell(document.activeElement === slider));
  root.addEventListener("pointermove", (event) => {
    const place = [...root.children].indexOf(event.target);
    if (place >= 0) {
      slider.value = place;
      sayCell(true);
    }
  });
}

// --- a link to copy ---

function watchCopy() {
  const button = document.getElementById("copy");
  const link = document.getElementById("link");
  if (!button || !link) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const told = document.getElementById("copied");
    link.select();
    try {
      // Over plain HTTP from another machine there is no clipboard for scripts; the old way still works there.
      if (navigator.clipboard) await navigator.clipboard.writeText(link.value);
      else if (!document.execCommand("copy")) throw new Error("refused");
      told.textContent = "Copied.";
    } catch (error) {
      told.textContent = "The browser does not let us copy; the link is selected, press Ctrl+C.";
    }
  });
}

// --- what comes ---

function apply(change) {
  if (change.title !== null) document.title = `${change.title} · Upswarm`;
  for (const [id, html] of Object.entries(change.html)) {
    const old = document.getElementById(id);
    if (old) {
      morph(old, made(html));
      localize(old);
    }
  }
  for (const [region, ids] of Object.entries(change.order)) {
    arrange(region, ids, change.html);
    localize(document.querySelector(`[data-region="${region}"]`) ?? document.body);
  }
  for (const [name, keys] of Object.entries(change.gone)) for (const key of keys) delete values[name][key];
  for (const [name, set] of Object.entries(change.set)) Object.assign((values[name] ??= {}), set);
  if (change.set.graph || change.gone.graph) drawGraph();
  if (change.set.cells || change.set.names) drawCells(change.set.cells ?? {});
}

let source = null;

function say(text, state) {
  const note = document.getElementById("connection");
  if (note.textContent !== text) note.textContent = text;
  document.body.dataset.state = state;
}

function listen() {
  if (source !== null) return;
  source = new EventSource(document.body.dataset.live);
  source.addEventListener("whole", (event) => {
    for (const name of Object.keys(values)) values[name] = {};
    apply(JSON.parse(event.data));
    say("live", "live");
  });
  source.addEventListener("change", (event) => apply(JSON.parse(event.data)));
  source.addEventListener("gone", () => {
    stop();
    say("No longer known to the tracker; this is the last that was seen.", "gone");
  });
  source.addEventListener("error", () => {
    say("The tracker does not answer; this is the last that was seen.", "lost");
    // Refused for good (too many pages): the browser has given up, we have not.
    if (source?.readyState === EventSource.CLOSED) {
      stop();
      setTimeout(() => document.hidden || listen(), 10000);
    }
  });
}

function stop() {
  source?.close();
  source = null;
}

localize(document);
watchCells();
watchCopy();
// A page nobody looks at costs nothing, and browsers allow few connections to one host.
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
if (!document.hidden) listen();
