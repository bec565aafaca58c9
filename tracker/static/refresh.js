// Shows the newest state without losing the reader's place. Without JavaScript the page reloads itself (noscript).
"use strict";

const INTERVAL_MS = 2000;
const INTERVAL_MS_MAX = 30000;
let wait = INTERVAL_MS;

async function refresh() {
  const note = document.getElementById("connection");
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    // DOMParser makes a document that runs nothing; the server has escaped what nodes wrote.
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = [...document.querySelectorAll("details")].map((one) => one.open);
    document.getElementById("main").replaceWith(document.adoptNode(fresh.getElementById("main")));
    document.querySelectorAll("details").forEach((one, place) => { one.open = open[place] ?? false; });
    document.title = fresh.title;
    note.textContent = "";
    wait = INTERVAL_MS;
  } catch (error) {
    note.textContent = "The tracker does not answer; this is the last that was heard.";
    wait = Math.min(wait * 2, INTERVAL_MS_MAX);
  }
  setTimeout(refresh, document.hidden ? Math.max(wait, 10000) : wait);
}

setTimeout(refresh, wait);
