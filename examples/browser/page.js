/** The page: it shows what the worker tells. The model's folder is at the address in ?model=. */

const element = (id) => document.getElementById(id);
const [messages, question, error, progress] = [
  "messages",
  "question",
  "error",
  "progress",
].map(element);
let worker = null; // of the model that answers
let loading = null; // of the next model, until it takes the place of the former
let [asked, answer] = [null, null]; // the paragraphs of the last question and of its answer, which grows
let opened = ""; // the status of the model that answers
let hint = ""; // why the page cannot be used offline

const received = {
  progress({ file, loaded, total }) {
    progress.value = total ? loaded / total : 0;
    element("status").textContent =
      loaded < total
        ? `loading ${file}: ${megabytes(loaded)} of ${megabytes(total)}`
        : "opening the model ...";
  },
  ready({ name, provider, kernels, threads, context, isolated, unkept }) {
    worker?.terminate(); // a heap of WebAssembly never shrinks, and goes with its worker only
    [worker, loading] = [loading, null];
    element("name").textContent = name;
    document.title = name;
    progress.hidden = true;
    const reason = isolated
      ? ""
      : ", as this page is served without the headers that more need";
    const computes =
      provider === "webgpu"
        ? kernels
        : `${threads} ${threads === 1 ? "thread" : "threads"}${reason}`;
    element("status").textContent =
      `${computes}; remembers ${context.toLocaleString("en")} tokens${hint}`;
    if (unkept)
      element("status").textContent +=
        `; needs the network for the model's files, as ${unkept}`;
    opened = element("status").textContent;
    remember(folder);
    chosen(provider);
  },
  left({ provider, bytes }) {
    loadBy(provider, bytes);
  },
  piece({ text, speed, position }) {
    const atEnd =
      messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
    answer.textContent += text;
    if (atEnd) messages.scrollTop = messages.scrollHeight;
    showSpeed(speed, position);
  },
  done({ answered, speed, position }) {
    showSpeed(speed, position);
    if (!answered) takeBack();
    setBusy(false);
  },
  conversation({ transcript, position }) {
    messages.replaceChildren();
    for (const { role, content } of transcript)
      if (role !== "system") paragraph(role, content);
    element("speed").textContent = position
      ? `${position.toLocaleString("en")} tokens`
      : "";
    setBusy(false);
  },
  saved({ bytes }) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = "conversation.safetensors";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    setBusy(false);
  },
  failed({ message, answered }) {
    loading?.terminate();
    loading = null;
    error.textContent = message;
    error.hidden = false;
    progress.hidden = true;
    if (worker === null) {
      element("status").textContent = "the model cannot be used here";
      element("provider").disabled = false; // the other one may do
    } else {
      element("status").textContent = opened;
      element("provider").value = provider;
      if (answer && !answered) takeBack();
      setBusy(false);
    }
  },
};

function startWorker() {
  const started = new Worker("worker.js", { type: "module" });
  started.onmessage = ({ data }) => received[data.type](data);
  started.onerror = ({ message }) => {
    started.terminate();
    if (started === worker) worker = null;
    received.failed({
      message: message || "the worker does not start; update the browser",
    });
  };
  return started;
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || element("send").disabled) return;
  question.value = "";
  asked = paragraph("user", text);
  answer = paragraph("assistant", "");
  messages.scrollTop = messages.scrollHeight;
  send({ type: "ask", text, sampling: element("sampling").checked });
  element("stop").hidden = false;
  element("send").hidden = true;
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("form").requestSubmit();
});
element("stop").addEventListener("click", () =>
  worker.postMessage({ type: "stop" }),
);
element("reset").addEventListener("click", () => send({ type: "reset" }));
element("save").addEventListener("click", () => send({ type: "save" }));
element("open").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file)
    send({ type: "open", bytes: new Uint8Array(await file.arrayBuffer()) });
});

function send(message, to = worker) {
  error.hidden = true;
  setBusy(true);
  to.postMessage(message);
}

function setBusy(busy) {
  for (const id of ["send", "reset", "save", "open", "provider"])
    element(id).disabled = busy;
  answer?.classList.toggle("waiting", busy);
  messages.setAttribute("aria-busy", busy); // an answer is read out when it is whole
  if (busy) return;
  question.disabled = false; // from then on, as a field that is disabled loses the focus
  answer = null;
  element("stop").hidden = true;
  element("send").hidden = false;
  if (matchMedia("(pointer: fine)").matches) question.focus(); // a phone would open its keyboard
}

/** A question without an answer is no part of the conversation: it goes back to where it was written. */
function takeBack() {
  if (!question.value) question.value = asked.textContent;
  for (const p of [asked, answer]) {
    p.previousElementSibling.remove(); // its speaker
    p.remove();
  }
}

function paragraph(role, text) {
  const speaker = document.createElement("h2");
  speaker.className = "speaker";
  speaker.textContent = role === "user" ? "You" : element("name").textContent;
  const p = document.createElement("p");
  p.className = role;
  p.textContent = text;
  messages.append(speaker, p);
  return p;
}

function showSpeed(speed, position) {
  element("speed").textContent =
    `${speed ? `${speed.toFixed(1)} tokens/s, ` : ""}${position.toLocaleString("en")} tokens`;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

async function start() {
  if (
    !("WebAssembly" in globalThis) ||
    !("FinalizationRegistry" in globalThis)
  ) {
    received.failed({
      message:
        "this browser has no WebAssembly, or an old one; use a browser of 2021 or later",
    });
    return;
  }
  hint = await keepPage();
  loadBy(provider);
}

/** Load the model by WebAssembly or WebGPU in a worker of its own. bytes: a conversation that goes on, or null. */
function loadBy(name, bytes = null) {
  progress.hidden = false;
  loading = startWorker();
  const model = { url: folder, threads: wanted(threads), provider: name };
  send({ type: "load", ...model, bytes }, loading);
}

/** Who computes: the address says so from now on, and the service worker keeps what it needs. */
function chosen(name) {
  provider = name;
  element("provider").value = name;
  const address = new URL(location.href);
  if (
    address.searchParams.get("provider") !== name &&
    (name !== "wasm" || address.searchParams.has("provider"))
  ) {
    address.searchParams.set("provider", name);
    history.replaceState(null, "", address);
  }
  if (name !== "webgpu" || !navigator.serviceWorker) return;
  navigator.serviceWorker.ready.then(({ active }) => active.postMessage(name));
}

const NEEDS = "; needs the network, as this browser does not keep the page";

/** Say that the page cannot be used offline: a file of it cannot be loaded or kept. */
function sayUnkept() {
  if (hint) return;
  hint = NEEDS;
  element("status").textContent += NEEDS;
}

/** Let a service worker keep the page for offline use; the model's files are kept by the package. Why it cannot. */
async function keepPage() {
  if (!navigator.serviceWorker) return NEEDS;
  navigator.serviceWorker.addEventListener("message", sayUnkept);
  try {
    const { installing } =
      await navigator.serviceWorker.register("service_worker.js");
    let isKept = false;
    installing?.addEventListener("statechange", () => {
      isKept ||= installing.state === "installed";
      if (!isKept && installing.state === "redundant") sayUnkept();
    });
    return "";
  } catch (error) {
    return `${NEEDS} (${error.message})`;
  }
}

/** The threads in the address as a number; `load` refuses any other text in its own words. */
function wanted(text) {
  return text !== null && /^\d+$/.test(text) ? Number(text) : text;
}

/** The folder of the last visit that went well, for offline the address may have no query. */
function remembered() {
  try {
    return localStorage.getItem("model");
  } catch {
    return null; // storage is switched off
  }
}

function remember(name) {
  try {
    localStorage.setItem("model", name);
  } catch {
    // storage is switched off: the address names the model
  }
}

const query = new URLSearchParams(location.search);
const folder = query.get("model") ?? remembered() ?? "model/";
const threads = query.get("threads");
let provider = query.get("provider") ?? "wasm";
element("provider").value = provider;
element("provider").addEventListener("change", ({ target: { value } }) =>
  worker ? send({ type: "leave", provider: value }) : loadBy(value),
);
await start();
