/** Pauses in which the event loop delivers what waits: a message to a worker, a timer, the end of an AbortSignal. */

const LONGEST_MS = 20; // without a pause

let last = 0;

/** A turn of the event loop, if the last one is long ago. */
export async function breathe() {
  if (performance.now() - last < LONGEST_MS) return;
  await turn();
  last = performance.now();
}

/** @returns {Promise<void>} */
function turn() {
  if ('setImmediate' in globalThis)
    return new Promise((resolve) => {
      setImmediate(resolve);
    });
  return new Promise((resolve) => {
    // a timer would wait for 4 ms
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
