/** Actions on queues and submissions; each asks for confirmation first. */

import { queuePath, send, submissionPath } from "./api.js";
import { confirmed, editMetadata } from "./dialogs.js";
import { counted, number } from "./format.js";
import { keepCounts } from "./history.js";

/** @param {string} queue @param {boolean} isPaused */
export function pauseOrResume(queue, isPaused) {
  if (isPaused) {
    return confirmed({
      title: `Resume queue ${queue}?`,
      what: "Workers reserve its chunks again at once.",
      yes: "Resume it",
      act: async () => keepCounts(await send("POST", `${queuePath(queue)}/resume`)),
      done: `Queue ${queue} is resumed.`,
    });
  }
  return confirmed({
    title: `Pause queue ${queue}?`,
    what: "No chunk is reserved until the queue is resumed. Reserved chunks are finished, and submissions can still be inserted.",
    yes: "Pause it",
    act: async () => keepCounts(await send("POST", `${queuePath(queue)}/pause`)),
    done: `Queue ${queue} is paused.`,
  });
}

/**
 * @typedef {{id: string, queue: string, state: string, chunks_total: number, chunks_done: number,
 *   chunks_in_hand: number, chunks_failed: number, chunks_dropped: number, chunk_size: number,
 *   operations_total: number, operations_done: number, operations_failed: number,
 *   operations_succeeded: number, operations_dropped: number, max_failed_operations: number | null,
 *   max_attempts: number, prefix: string, codec: string, created_at: string, ended_at: string | null,
 *   metadata: string | null, strategic_metadata: Record<string, number | string>,
 *   trace_context: Record<string, string>, is_inline: boolean, failure: Failure | null,
 *   last_failure: Failure | null, release_reason: string | null, released_at: string | null}} Submission
 * @typedef {{chunk_index: number, attempt: number, at: string, type: string, message: string, traceback: string}} Failure
 */

/** @param {Submission} of */
export function cancel(of) {
  const left = of.chunks_total - of.chunks_done;
  return confirmed({
    title: `Cancel submission ${of.id}?`,
    what: [
      `It is in queue ${of.queue}. The remaining ${counted(left, "chunk")} of ${number(of.chunks_total)} will be dropped, including reserved ones; finished chunks are kept.`,
      "It can be retried afterwards.",
    ],
    yes: "Cancel the submission",
    isGrave: true,
    act: () => send("POST", `${submissionPath(of.queue, of.id)}/cancel`),
    done: `Submission ${of.id} is cancelled.`,
  });
}

/** @param {Submission} of */
export function retry(of) {
  const left = of.chunks_total - of.chunks_done;
  return confirmed({
    title: `Retry submission ${of.id}?`,
    what: [
      `Queue ${of.queue} processes the remaining ${counted(left, "chunk")} of ${number(of.chunks_total)}, each again with ${counted(of.max_attempts, "attempt")}. Finished chunks are kept, including errors of their operations.`,
      of.max_failed_operations === null ? "" : "Its limit of failed operations no longer applies.",
    ].filter(Boolean),
    yes: "Retry it",
    act: () => send("POST", `${submissionPath(of.queue, of.id)}/retry`),
    done: `Submission ${of.id} is in progress again.`,
  });
}

/** @param {Submission} of @returns {Promise<string>} the new submission's id, or "" */
export async function retryOnlyFailed(of) {
  let id = "";
  await confirmed({
    title: `Retry only the failed operations of submission ${of.id}?`,
    what: [
      `The ${counted(of.operations_failed, "operation")} with an error will be inserted as a new submission in queue ${of.queue}, with the same chunk size and metadata.`,
      "This submission stays as it is.",
    ],
    yes: "Insert them",
    act: async () => {
      id = (await send("POST", `${submissionPath(of.queue, of.id)}/retry?only=failed`)).id;
    },
    done: "The failed operations were inserted as a new submission.",
  });
  return id;
}

/** @param {Submission} of */
export function changeMetadata(of) {
  return editMetadata(of.id, of.strategic_metadata, (json) =>
    send("PATCH", submissionPath(of.queue, of.id), json));
}
