/** Keeps the page, its modules and the WebAssembly for offline use; a server that answers always comes first. */

const CACHE = "doge-export-page";
const PAGE = ["index.html", "style.css", "page.js", "worker.js"];
const PACKAGE = "doge-export/";
const HOME = new URL("./", location.href);

self.addEventListener("install", (event) =>
  event.waitUntil(keepList("all", PAGE).then(() => self.skipWaiting())),
);
self.addEventListener("activate", (event) =>
  event.waitUntil(self.clients.claim()),
);
// the name of a provider that the page has chosen, which needs files beyond those of all pages
self.addEventListener("message", (event) =>
  event.waitUntil(keepList(event.data)),
);
self.addEventListener("fetch", (event) => {
  const name = ownFile(event.request);
  if (name !== null) event.respondWith(answer(event, name));
});

/** The name of a file of the page or package; null for all others. The model's files are the package's business. */
function ownFile({ method, url }) {
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== HOME.origin) return null;
  if (!pathname.startsWith(HOME.pathname)) return null;
  const name = pathname.slice(HOME.pathname.length) || "index.html";
  return PAGE.includes(name) || name.startsWith(PACKAGE) ? name : null;
}

/** Keep a list of files.json, and others. */
async function keepList(name, others = []) {
  const response = await fetch(`${PACKAGE}files.json`);
  if (!response.ok) throw new Error(`files.json: ${response.status}`);
  const files = ((await response.json())[name] ?? []).map(
    (file) => PACKAGE + file,
  );
  await (await caches.open(CACHE)).addAll([...others, ...files]);
}

async function answer(event, name) {
  let response;
  try {
    response = await fetch(event.request);
  } catch (error) {
    const kept = await (await caches.open(CACHE)).match(new URL(name, HOME));
    if (kept) return kept;
    throw error;
  }
  // the answer does not wait for its copy, nor fail with it
  if (response.ok) event.waitUntil(keep(name, response.clone()));
  return response;
}

async function keep(name, response) {
  await (await caches.open(CACHE)).put(new URL(name, HOME), response);
}
