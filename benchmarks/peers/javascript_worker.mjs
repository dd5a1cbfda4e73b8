// JavaScript contenders: node javascript_worker.mjs KIND FOLDER THREADS CONTEXT
// The protocol is that of benchmarks/common/worker_process.py. Kinds:
// - node, wasm, chromium: javascript/ on onnxruntime-node, on WebAssembly in Node, and on WebAssembly in Chromium;
// - transformers.js-node-DTYPE, transformers.js-chromium-DTYPE: the files of its own converter, DTYPE being q8 or q4.
// In Chromium everything runs in a worker of a page. TRANSFORMERS_JS is a folder whose node_modules has transformers.js.

import { createReadStream, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { basename, dirname, extname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";

const [kind, folder, threads] = [
  process.argv[2],
  resolve(process.argv[3]),
  Number(process.argv[4]),
];
const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const require = createRequire(`${ROOT}/javascript/package.json`);
const transformers =
  process.env.TRANSFORMERS_JS &&
  join(
    resolve(process.env.TRANSFORMERS_JS),
    "node_modules/@huggingface/transformers",
  );
const peerOrt =
  transformers &&
  dirname(
    createRequire(`${transformers}/package.json`).resolve("onnxruntime-web"),
  );

// Both run in Node, and as text in the page's worker: they know nothing but their arguments.
async function openOurs(load, location, options) {
  const model = await load(location, options);
  const size = model.decoder.vocabSize;
  return async (prompt, count) => {
    const ids = Array.from(
      { length: prompt },
      (_, i) => 3 + ((i * 7919) % (size - 3)),
    );
    const { prefillTokensPerS, decodeTokensPerS } = await model.generate(ids, {
      temperature: 0,
      ignoreEos: true,
      maxNewTokens: count + 1,
    });
    return [prompt / prefillTokensPerS, count ? count / decodeTokensPerS : 0];
  };
}

async function openPeer(
  { AutoConfig, AutoModelForCausalLM, Tensor, env },
  place,
  name,
  dtype,
  device,
  threads,
) {
  Object.assign(env, {
    allowRemoteModels: false,
    allowLocalModels: true,
    localModelPath: place,
    useBrowserCache: false,
  });
  const config = await AutoConfig.from_pretrained(name);
  const session_options = { intraOpNumThreads: threads };
  const model = await AutoModelForCausalLM.from_pretrained(name, {
    config,
    dtype,
    device,
    session_options,
  });
  const generate = async (prompt, count) => {
    const ids = BigInt64Array.from({ length: prompt }, (_, i) =>
      BigInt(3 + ((i * 7919) % (config.vocab_size - 3))),
    );
    const input_ids = new Tensor("int64", ids, [1, prompt]);
    const attention_mask = new Tensor(
      "int64",
      new BigInt64Array(prompt).fill(1n),
      [1, prompt],
    );
    const start = performance.now();
    await model.generate({
      input_ids,
      attention_mask,
      do_sample: false,
      repetition_penalty: 1,
      min_new_tokens: count,
      max_new_tokens: count,
    });
    return (performance.now() - start) / 1e3;
  };
  return async (prompt, count) => {
    // the steps take the time that a run with one new token does not
    const first = await generate(prompt, 1);
    return [first, count ? (await generate(prompt, count + 1)) - first : 0];
  };
}

const WORKER = `
${openOurs}
${openPeer}
let measure;
onmessage = async ({ data: [prompt, count] }) => postMessage(await measure(prompt, count));
(async () => {
  const { kind, threads, name } = Object.fromEntries(new URLSearchParams(location.search));
  if (kind === 'chromium') {
    const { load } = await import('/doge-export/index.js');
    measure = await openOurs(load, new URL('/model/' + name, location.href), { threads: Number(threads), cache: null });
  } else {
    const module = await import('/transformers/dist/transformers.min.js');
    Object.assign(module.env.backends.onnx.wasm, { wasmPaths: '/ort/', numThreads: Number(threads) });
    measure = await openPeer(module, '/model/', name, kind.split('-').pop(), 'wasm', Number(threads));
  }
  postMessage(await measure(64, 0));
})();
`;
const TYPES = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".html": "text/html",
};
const PLACES = {
  "doge-export": join(ROOT, "javascript/browser"),
  transformers,
  ort: peerOrt,
  model: dirname(folder),
};

function serve({ url }, response) {
  const { pathname } = new URL(url, "http://x");
  const headers = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
  };
  const texts = {
    "/": '<!doctype html><link rel="icon" href="data:,">',
    "/worker.js": WORKER,
  };
  headers["Content-Type"] =
    pathname === "/"
      ? "text/html"
      : (TYPES[extname(pathname)] ?? "application/octet-stream");
  if (texts[pathname] !== undefined)
    return response.writeHead(200, headers).end(texts[pathname]);
  const [, place, ...rest] = decodeURIComponent(pathname).split("/");
  const path = join(PLACES[place] ?? "/nowhere", ...rest);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat?.isFile()) return response.writeHead(404, headers).end();
  response.writeHead(200, { ...headers, "Content-Length": stat.size });
  return createReadStream(path).pipe(response);
}

/** Measurements in a worker of Chromium, and its memory. */
async function openChromium() {
  const { default: puppeteer } = await import(
    pathToFileURL(require.resolve("puppeteer-core")).href
  );
  const { assemble } = await import(
    pathToFileURL(join(ROOT, "javascript/assemble.js")).href
  );
  if (
    !statSync(join(PLACES["doge-export"], "index.js"), {
      throwIfNoEntry: false,
    })
  )
    await assemble(PLACES["doge-export"]);
  const server = createServer(serve);
  await new Promise((done) => {
    server.listen(0, "127.0.0.1", done);
  });
  const browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
    protocolTimeout: 600_000,
  });
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  page.on(
    "console",
    (message) => message.type() === "error" && console.error(message.text()),
  );
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate(
    (query) => {
      const worker = new Worker(`/worker.js?${query}`, { type: "module" });
      const answer = () =>
        new Promise((done, failed) => {
          worker.onmessage = ({ data }) => done(data);
          worker.onerror = ({ message }) => failed(new Error(message));
        });
      window.first = answer();
      window.measure = async (prompt, count) => {
        await window.first;
        worker.postMessage([prompt, count]);
        return answer();
      };
      return window.first;
    },
    new URLSearchParams({
      kind,
      threads: String(threads),
      name: basename(folder),
    }).toString(),
  );
  process.on("exit", () => browser.process()?.kill());
  return {
    measure: (prompt, count) =>
      page.evaluate((p, c) => window.measure(p, c), prompt, count),
    memory: () => peakOf(renderers(browser.process().pid)),
  };
}

/** Processes below one that are Chromium's renderers; the page's is the largest of them. */
function renderers(pid) {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf-8")
    .trim()
    .split(" ")
    .filter(Boolean)
    .map(Number);
  const below = children.flatMap((child) => [child, ...renderers(child)]);
  return below.filter((child) =>
    readFileSync(`/proc/${child}/cmdline`, "utf-8").includes("--type=renderer"),
  );
}

/** The most memory that one of some processes has had resident, in MB. */
function peakOf(pids) {
  const peaks = pids.map((pid) =>
    Number(
      /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf-8"))[1],
    ),
  );
  return Math.max(...peaks) / 1e3;
}

async function openNode() {
  if (kind === "node" || kind === "wasm") {
    const { load } = await import(
      pathToFileURL(join(ROOT, "javascript/src/index.js")).href
    );
    return openOurs(load, folder, {
      threads,
      executionProviders: [kind === "node" ? "cpu" : "wasm"],
    });
  }
  const module = await import(
    pathToFileURL(
      createRequire(`${transformers}/package.json`).resolve(
        "@huggingface/transformers",
      ),
    ).href
  );
  return openPeer(
    module,
    `${dirname(folder)}/`,
    basename(folder),
    kind.split("-").pop(),
    "cpu",
    threads,
  );
}

const { measure, memory } = kind.includes("chromium")
  ? await openChromium()
  : { measure: await openNode(), memory: () => peakOf([process.pid]) };
if (!kind.includes("chromium")) await measure(64, 0);
console.log('"first"');
for await (const line of createInterface({ input: process.stdin })) {
  console.log(
    JSON.stringify(
      line === "memory"
        ? memory()
        : await measure(...line.split(" ").map(Number)),
    ),
  );
}
process.exit(0);
