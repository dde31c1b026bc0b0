// A consumer in plain Node (18 or newer, nothing to install): adds one to each number.
//
//   node examples/consumer.mjs http://127.0.0.1:3999 default
//
// It needs only the API: no Redis, no object store, no codec. Operations and results are JSON.
// OPSQUEUE_TOKEN is sent if it is set. Ctrl-C releases the reserved chunks. If the process dies, its
// chunks go to other consumers after --heartbeat-timeout of the API (30 s).
const [url = "http://127.0.0.1:3999", queue = "default"] = process.argv.slice(2);
const worker = `node-${process.pid}-${Math.random().toString(36).slice(2)}`;
const stop = new AbortController();
const held = new Set();

async function call(method, path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (process.env.OPSQUEUE_TOKEN) headers.authorization = `Bearer ${process.env.OPSQUEUE_TOKEN}`;
  const answer = await fetch(`${url}/v1/queues/${queue}${path}`, { method, headers, signal, body: JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status}: ${text}`);
  return text && JSON.parse(text);
}

const increment = (number) => number + 1;

async function work({ token, operations, problem }) {
  held.add(token);
  try {
    if (problem) throw new Error(problem);
    await call("POST", "/chunks/complete", { chunks: [{ token, results: operations.map(increment) }] });
  } catch (error) {
    const failed = { token, type: error.name, message: error.message, traceback: error.stack };
    await call("POST", "/chunks/fail", { chunks: [failed] });
  } finally {
    held.delete(token);
  }
}

const beat = () => call("POST", `/workers/${worker}/heartbeat`, { tokens: [...held] }).catch(console.error);
const beating = setInterval(beat, 5000);
for (const name of ["SIGINT", "SIGTERM"]) process.once(name, () => stop.abort());
const wanted = { worker, max: 1, strategy: "Random", wait: 20, include_operations: true };
while (!stop.signal.aborted) {
  try {
    const { chunks } = await call("POST", "/chunks/reserve", wanted, stop.signal);
    for (const chunk of chunks) await work(chunk);
  } catch (error) {
    if (!stop.signal.aborted) console.error(`${error}; trying again`);
    await new Promise((resolve) => setTimeout(resolve, stop.signal.aborted ? 0 : 1000));
  }
}
clearInterval(beating);
await call("DELETE", `/workers/${worker}`);
