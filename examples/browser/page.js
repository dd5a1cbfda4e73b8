/** The page: it shows what the worker tells. The model's folder is at the address in ?model=. */

const element = (id) => document.getElementById(id);
const [messages, question, error, progress] = [
  "messages",
  "question",
  "error",
  "progress",
].map(element);
const worker = new Worker("worker.js", { type: "module" });
let answer = null; // the paragraph that grows

const received = {
  progress({ file, loaded, total }) {
    progress.value = total ? loaded / total : 0;
    element("status").textContent =
      `loading ${file}: ${megabytes(loaded)} of ${megabytes(total)}`;
  },
  ready({ name, threads, context, isolated }) {
    element("name").textContent = name;
    document.title = name;
    progress.hidden = true;
    const hint = isolated
      ? ""
      : ", as this page is served without the headers that more need";
    element("status").textContent =
      `${threads} ${threads === 1 ? "thread" : "threads"}${hint}; remembers ${context.toLocaleString("en")} tokens`;
    setBusy(false);
  },
  piece({ text, speed, position }) {
    const atEnd =
      messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
    answer.textContent += text;
    if (atEnd) messages.scrollTop = messages.scrollHeight;
    showSpeed(speed, position);
  },
  done({ speed, position }) {
    showSpeed(speed, position);
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
  failed({ message, fatal }) {
    error.textContent = message;
    error.hidden = false;
    if (fatal) {
      element("status").textContent = "the model cannot be used here";
      progress.hidden = true;
    } else {
      if (answer && !answer.textContent) answer.remove();
      setBusy(false);
    }
  },
};

worker.onmessage = ({ data }) => received[data.type](data);
worker.onerror = ({ message }) =>
  received.failed({
    message: message || "the worker does not start; update the browser",
    fatal: true,
  });

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || element("send").disabled) return;
  question.value = "";
  paragraph("user", text);
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

function send(message) {
  error.hidden = true;
  setBusy(true);
  worker.postMessage(message);
}

function setBusy(busy) {
  for (const id of ["question", "send", "reset", "save", "open"])
    element(id).disabled = busy;
  answer?.classList.toggle("waiting", busy);
  if (busy) return;
  answer = null;
  element("stop").hidden = true;
  element("send").hidden = false;
  if (matchMedia("(pointer: fine)").matches) question.focus(); // a phone would open its keyboard
}

function paragraph(role, text) {
  const p = document.createElement("p");
  p.className = role;
  p.textContent = text;
  messages.append(p);
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
      fatal: true,
    });
    return;
  }
  // it keeps the page itself for offline use; the model's files are kept by the package
  await navigator.serviceWorker?.register("service_worker.js").catch(() => {});
  const query = new URLSearchParams(location.search);
  const folder =
    query.get("model") ?? localStorage.getItem("model") ?? "model/"; // offline the address may have no query
  localStorage.setItem("model", folder);
  const threads = query.get("threads");
  worker.postMessage({
    type: "load",
    url: new URL(folder, location.href).href,
    threads: threads && Number(threads),
  });
}

await start();
