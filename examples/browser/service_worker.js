/** Keeps the page, its modules and the WebAssembly for offline use; a server that answers always comes first. */

const CACHE = "doge-export-page";
const PAGE = ["index.html", "style.css", "page.js", "worker.js"];

self.addEventListener("install", (event) =>
  event.waitUntil(keepAll().then(() => self.skipWaiting())),
);
self.addEventListener("activate", (event) =>
  event.waitUntil(self.clients.claim()),
);
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const isPage =
    request.method === "GET" &&
    origin === location.origin &&
    !pathname.startsWith("/model/");
  if (isPage) event.respondWith(answer(request)); // the model's files are the package's business
});

async function keepAll() {
  const files = await (await fetch("doge-export/files.json")).json();
  await (
    await caches.open(CACHE)
  ).addAll([...PAGE, ...files.map((file) => `doge-export/${file}`)]);
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok && request.mode !== "navigate")
      await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(
      request.mode === "navigate" ? "index.html" : request,
    );
    if (kept) return kept;
    throw error;
  }
}
