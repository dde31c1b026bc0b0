-- Attempt: what happens to a chunk when an attempt has been used up.
--
-- With _end_submission, _suspects, _wake.

-- Use up an attempt of a chunk whose reservation has just ended. With `jitter` (0 to 1000 per
-- mille) the next attempt waits for the submission's back-off; without it the chunk is free at
-- once. `is_final`: there is no next attempt. `is_suspect`: the next one needs a worker of its own.
-- Returns "retried", "failed" (so is the submission) or "dropped" (the submission had ended
-- before), the number of the attempt, and the instant of the next one.
local function use_attempt(id, index, state, failure, jitter, is_final, is_suspect)
  if state ~= 'in_progress' then
    put_back(id, index, state)
    return 'dropped', 0, now
  end
  work = work + 15
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'max_attempts', 'backoff_first_ms', 'backoff_max_ms')
  local attempt = redis.call('HINCRBY', key .. ':attempts', index, 1)
  redis.call('HSET', key .. ':failure', 'chunk_index', index, 'attempt', attempt, 'at', now,
    'type', failure.type, 'message', failure.message, 'traceback', failure.traceback)
  if is_final or attempt >= tonumber(row[1]) then
    -- Back into redo: a retry of the submission starts with the chunk that failed it.
    put_back(id, index, 'failed')
    redis.call('HSET', key, 'chunks_failed', 1)
    count('chunks_failed', 1)
    end_submission(id, 'failed', 1)
    return 'failed', attempt, now
  end
  count('chunks_retried', 1)
  if is_suspect then
    isolate(id, index, now)
    return 'retried', attempt, now
  end
  -- 2 ^ 1024 is infinite, and zero times that is not a number.
  local doubled = tonumber(row[2]) * 2 ^ math.min(attempt - 1, 62)
  local full = jitter and math.min(tonumber(row[3]), doubled) or 0
  if full == 0 then
    put_back(id, index, state)
    wake()
    return 'retried', attempt, now
  end
  -- Half of the delay is fixed, half is jitter, so that chunks that failed together don't come back
  -- together. The caller chooses it, since a server seeds math.random the same for each script.
  local due = now + math.floor(full / 2 + full / 2 * jitter / 1000)
  redis.call('ZADD', base .. 'delayed', due, id .. ':' .. index)
  -- Nothing is free yet, but sleeping workers must learn of the new instant to wake up at.
  wake()
  return 'retried', attempt, due
end
