/** Values since the page was opened, for sparklines and the rates of single submissions. */

export const SAMPLES = 90;
const EVERY_MS = 1_000;

/**
 * @typedef {{queue: string, submissions: Record<string, number>, submissions_ready: number,
 *   chunks_delayed: number, chunks_in_hand: number, workers: number, chunks_per_second: number,
 *   operations_per_second: number, is_paused: boolean, oldest_waiting_at: string | null,
 *   stats: Record<string, number>}} Counts
 */

/** @type {Map<string, Counts>} The last counts of each queue. */
export const counts = new Map();

/** @type {Map<string, {done: number | null, perSecond: number[], backlog: number[]}>} */
const samples = new Map();

/** @param {Counts} body */
export function keepCounts(body) {
  counts.set(body.queue, body);
}

/** Take a sample of each queue; called once a second. */
function sample() {
  for (const [queue, body] of counts) {
    const of = samples.get(queue) ?? { done: null, perSecond: [], backlog: [] };
    samples.set(queue, of);
    const done = body.stats.operations_completed ?? 0;
    const perSecond = of.done === null ? 0 : Math.max(0, done - of.done) / (EVERY_MS / 1000);
    of.done = done;
    of.perSecond = [...of.perSecond, perSecond].slice(-SAMPLES - 2);
    of.backlog = [...of.backlog, body.stats.backlog_operations ?? 0].slice(-SAMPLES);
  }
}
setInterval(sample, EVERY_MS);

/** Operations per second of a queue, oldest first, each over three seconds, since counts come about once a second. @param {string} queue */
export function pastRates(queue) {
  const rates = samples.get(queue)?.perSecond ?? [];
  return rates.slice(2).map((rate, i) => (rate + rates[i] + rates[i + 1]) / 3);
}

/** Operations not done yet, oldest first. @param {string} queue */
export const pastBacklog = (queue) => samples.get(queue)?.backlog ?? [];

/** @type {Map<string, [number, number][]>} */
const seen = new Map();
const WINDOW_MS = 60_000;

/**
 * Operations per second of a submission over the last minute; null if not known yet.
 * @param {string} id @param {number} operationsDone
 */
export function pace(id, operationsDone) {
  const now = Date.now();
  const readings = (seen.get(id) ?? []).filter(([at]) => now - at <= WINDOW_MS);
  readings.push([now, operationsDone]);
  seen.set(id, readings);
  const [firstAt, first] = readings[0];
  return now - firstAt < 1_000 ? null : Math.max(0, (operationsDone - first) * 1000) / (now - firstAt);
}
