/** Keeps the page, its modules and the WebAssembly for offline use; a server that answers always comes first. */

const CACHE = "doge-export-page";
const PAGE = ["index.html", "style.css", "page.js", "worker.js"];
const PACKAGE = "doge-export/";
const HOME = new URL("./", location.href);

self.addEventListener("install", (event) =>
  event.waitUntil(
    listed("all")
      .then((files) => keepAll([...PAGE, ...files]))
      .then(() => self.skipWaiting()),
  ),
);
self.addEventListener("activate", (event) =>
  event.waitUntil(self.clients.claim()),
);
// the name of a provider that the page has chosen, which needs files beyond those of all pages; answered where it fails
self.addEventListener("message", (event) =>
  event.waitUntil(
    listed(event.data)
      .then(unkept)
      .then(keepAll)
      .catch((error) => event.source.postMessage(error.message)),
  ),
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

/** The files of a list in files.json. */
async function listed(name) {
  const response = await fetch(`${PACKAGE}files.json`);
  if (!response.ok) throw new Error(`files.json: ${response.status}`);
  return ((await response.json())[name] ?? []).map((file) => PACKAGE + file);
}

/** Those of some files that are not kept yet; `answer` renews the others whenever they are asked for. */
async function unkept(files) {
  const cache = await caches.open(CACHE);
  const kept = await Promise.all(files.map((file) => cache.match(file)));
  return files.filter((_, index) => !kept[index]);
}

async function keepAll(files) {
  await (await caches.open(CACHE)).addAll(files);
}

async function answer(event, name) {
  const kept = async () =>
    (await caches.open(CACHE)).match(new URL(name, HOME));
  let response;
  try {
    response = await fetch(event.request);
  } catch (error) {
    const copy = await kept();
    if (copy) return copy;
    throw error;
  }
  if (response.status >= 500) return (await kept()) ?? response;
  // the answer does not wait for its copy, nor fail with it
  if (response.ok) event.waitUntil(keep(name, response.clone()));
  return response;
}

async function keep(name, response) {
  await (await caches.open(CACHE)).put(new URL(name, HOME), response);
}
