-- Chunk: the loader puts this text behind the index, in front of every script.
--
-- What several transitions of chunks, submissions and workers share.

-- Give a chunk back. For a submission that has ended it only waits there for a retry; for one that
-- is forgotten it is nothing. Answers whether somebody can take it now.
local function put_back(id, index, state)
  if not state then
    return false
  end
  redis.call('ZADD', sub_key(id) .. ':redo', index, index)
  if state ~= 'in_progress' then
    return false
  end
  enter_ready(id)
  return true
end

-- Tell those who watch a submission that it changed; `watched_until` is its field, false or text.
local function tell_watchers(id, watched_until, what)
  if watched_until and now < tonumber(watched_until) then
    redis.call('XADD', sub_key(id) .. ':news', 'MAXLEN', 1, '*', 'what', what)
  end
end
local DEFAULT_RETENTION_MS = 24 * 3600 * 1000

-- Move a submission from in_progress to `state`, and out of every index of work. Of its chunks
-- `failed` are neither done nor dropped.
local function end_submission(id, state, failed)
  local key = sub_key(id)
  redis.call('HSET', key, 'state', state, 'ended_at', now)
  redis.call('ZREM', base .. 'submissions:in_progress', id)
  redis.call('ZADD', base .. 'submissions:' .. state, 0, id)
  local row = redis.call('HMGET', key, 'retention_ms', 'watched_until', 'chunks_total',
    'chunks_done', 'operations_total', 'operations_done', 'delete_inputs', 'inline')
  local retention_ms = row[1] or redis.call('GET', base .. 'retention') or DEFAULT_RETENTION_MS
  redis.call('ZADD', base .. 'expiring', now + tonumber(retention_ms), id)
  leave_ready(id)
  count('submissions_' .. state, 1)
  event(id, state)
  tell_watchers(id, row[2], state)
  if state ~= 'completed' then
    count('chunks_dropped', row[3] - row[4] - failed)
    count('backlog_chunks', row[4] - row[3])
    count('backlog_operations', row[6] - row[5])
    return
  end
  -- All bits are set: the state says as much.
  redis.call('UNLINK', key .. ':done', key .. ':redo', key .. ':attempts')
  if row[7] and row[8] then
    redis.call('UNLINK', key .. ':in')
  elseif row[7] and row[3] ~= '0' then
    redis.call('ZADD', base .. 'spent_inputs', 0, id)
  end
end

-- More operations failed than the submission allows: it fails. Chunk `index`, which passed the
-- limit, is done like those before.
local function fail_past_limit(id, index, failed, limit)
  local key = sub_key(id)
  local used = redis.call('HGET', key .. ':attempts', index) or 0
  redis.call('HSET', key .. ':failure', 'chunk_index', index, 'attempt', used + 1, 'at', now,
    'type', 'TooManyFailedOperations', 'message', failed .. ' operations failed, of '
    .. redis.call('HGET', key, 'operations_total') .. ' in all; max_failed_operations is '
    .. limit, 'traceback', '')
  end_submission(id, 'failed', 0)
end

-- Keep the rate: what was completed lately, in slots of 10 s.
local function count_recent(chunks, operations)
  local recent = base .. 'recent'
  local slot = string.format('%.0f', now - now % 10000)
  if redis.call('HINCRBY', recent, 'c:' .. slot, chunks) == chunks then
    -- The first of its slot; whoever comes first after a pause finds older ones, few as they are.
    for _, field in ipairs(redis.call('HKEYS', recent)) do
      if tonumber(string.sub(field, 3)) < now - 70000 then
        redis.call('HDEL', recent, field)
      end
    end
  end
  redis.call('HINCRBY', recent, 'o:' .. slot, operations)
end

-- A token is the entry's id and what it is for: "ENTRY:ID:INDEX". The entry's id alone would not
-- do: a server that lost its last writes (a crash, a fail-over to a replica that lagged) and whose
-- clock is behind gives the ids of lost entries a second time, for other chunks. What is left is a
-- late report of the same chunk, whose output is as good as the new one's.
local function token_of(entry)
  return entry[1] .. ':' .. entry[2][2] .. ':' .. entry[2][4]
end

-- Whether an entry of the stream is a reservation: an operator can add anything to it.
local function is_reservation(entry)
  local f = entry[2]
  return #f == 10 and f[1] == 's' and tonumber(f[4]) and tonumber(f[8]) and tonumber(f[10])
end

-- The reservation that a token, or an entry's id, names; nil when it is gone or for another chunk.
-- Answers behind it the entry's id, and whether the stream has an entry of that id.
local function entry_of(token)
  local entry_id, chunk = string.match(token, '^(%d+%-%d+)(.*)$')
  if not entry_id then
    return nil
  end
  local entry = redis.call('XRANGE', base .. 'reservations', entry_id, entry_id)[1]
  if entry and is_reservation(entry) and (chunk == '' or token == token_of(entry)) then
    return entry, entry_id, true
  end
  return nil, entry_id, entry ~= nil
end

-- Acknowledge entries that the stream has no longer (it was trimmed, or the server lost its last
-- writes), so that nobody meets them again. Which chunks they were for, a repair finds out.
local function acknowledge_lost(entry_ids)
  local lost = redis.call('XACK', base .. 'reservations', 'workers', unpack(entry_ids))
  if lost > 0 then
    if lost_now == 0 then
      begin_repair()
    end
    note_lost(lost)
  end
end

-- Remove an entry that is not pending (an operator acknowledged it, or deleted consumer or group):
-- no worker knows of it any more, and nobody else can have its chunk while it is there. Given its
-- fields; answers whether a submission has the chunk again.
local function free_unheld(entry_id, f)
  redis.call('XDEL', base .. 'reservations', entry_id)
  local id, index = f[2], tonumber(f[4])
  local state = redis.call('HGET', sub_key(id), 'state')
  note_lost(1)
  if state then
    count_in_hand(id, -1)
    if put_back(id, index, state) then
      wake()
    end
  end
  return state ~= false
end

-- End a reservation: acknowledging its entry is the one act that does, so whoever acknowledges owns
-- the outcome and everybody later is `lost`. Answers id, index, state of the submission (false when
-- it is forgotten); nothing when the token is not pending any more. Given an entry's id, it is not
-- pending afterwards, whatever it is.
local function end_reservation(token)
  local reservations = base .. 'reservations'
  local entry, entry_id, is_there = entry_of(token)
  if entry then
    if redis.call('XACK', reservations, 'workers', entry_id) == 0 then
      free_unheld(entry_id, entry[2])
      return nil
    end
    redis.call('XDEL', reservations, entry_id)
    local id, index = entry[2][2], tonumber(entry[2][4])
    local state = redis.call('HGET', sub_key(id), 'state')
    if state then
      count_in_hand(id, -1)
    end
    return id, index, state
  elseif entry_id and not is_there then
    acknowledge_lost({entry_id})
  elseif entry_id == token then
    -- No reservation: nobody can report it.
    redis.call('XACK', reservations, 'workers', entry_id)
    redis.call('XDEL', reservations, entry_id)
  end
  return nil
end

-- Use up an attempt of a chunk whose reservation has just ended. `jitter` (0 to 1000 per mille)
-- makes the next attempt wait for the submission's back-off; without it the chunk is free at once.
-- Answers "retried", "failed" (and the submission with it) or "dropped" (it had ended before), the
-- number of the attempt, and the instant of the next one.
local function use_attempt(id, index, state, failure, jitter)
  if state ~= 'in_progress' then
    put_back(id, index, state)
    return 'dropped', 0, now
  end
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'max_attempts', 'backoff_first_ms', 'backoff_max_ms')
  local attempt = redis.call('HINCRBY', key .. ':attempts', index, 1)
  redis.call('HSET', key .. ':failure', 'chunk_index', index, 'attempt', attempt, 'at', now,
    'type', failure.type, 'message', failure.message, 'traceback', failure.traceback)
  if attempt >= tonumber(row[1]) then
    -- Back into redo: a retry of the submission starts with the chunk that failed it.
    put_back(id, index, 'failed')
    redis.call('HSET', key, 'chunks_failed', 1)
    count('chunks_failed', 1)
    end_submission(id, 'failed', 1)
    return 'failed', attempt, now
  end
  count('chunks_retried', 1)
  -- 2 ^ 1024 is infinite, and zero times that is not a number.
  local doubled = tonumber(row[2]) * 2 ^ math.min(attempt - 1, 62)
  local full = jitter and math.min(tonumber(row[3]), doubled) or 0
  if full == 0 then
    put_back(id, index, state)
    wake()
    return 'retried', attempt, now
  end
  -- Half of the delay is fixed, half is jitter, so that chunks that failed together don't come back
  -- together. The caller draws it: a server seeds math.random alike at each start of a script.
  local due = now + math.floor(full / 2 + full / 2 * jitter / 1000)
  redis.call('ZADD', base .. 'delayed', due, id .. ':' .. index)
  -- Nothing is free yet, but who sleeps must learn of the new instant to wake up at.
  wake()
  return 'retried', attempt, due
end

-- The stream or its group is gone: no reservation made before holds any more, and which chunks were
-- in hand is found out by `repair`, bounded step by bounded step, from its start: what one under
-- way has read of the old stream holds no longer.
--
-- A new stream would begin its ids anew: within a millisecond, or on a server whose clock is
-- behind, a token from before would name some other chunk, and a late report would complete that
-- one. So the new ids begin after the fence: an entry added and removed moves the stream there.
-- Given the number of entries, if any, that the script that notices it has just added.
local function reset_reservations(added)
  local reservations, time = base .. 'reservations', redis.call('TIME')
  local last_fence = tonumber(redis.call('GET', base .. 'fence') or 0)
  local fence = string.format('%.0f', math.max(tonumber(time[1]) * 1000, last_fence) + 2000)
  redis.call('SET', base .. 'fence', fence)
  local left = redis.call('XLEN', reservations) - (added or 0)
  if left > 0 then
    note_lost(left)
  end
  redis.call('DEL', reservations, base .. 'repair')
  redis.call('UNLINK', base .. 'repair:held')
  redis.call('XADD', reservations, fence, 'tokens', 'after')
  redis.call('XDEL', reservations, fence .. '-0')
  redis.call('XGROUP', 'CREATE', reservations, 'workers', '0')
  begin_repair()
end

local function is_nogroup(answer)
  return type(answer) == 'table' and answer.err ~= nil
    and string.find(tostring(answer.err), 'NOGROUP', 1, true) ~= nil
end

-- The entries pending for a worker: {token, worker, idle, deliveries} each, oldest first.
local function pending_of(worker, limit)
  local pending = redis.pcall('XPENDING', base .. 'reservations', 'workers', '-', '+', limit,
    worker)
  if is_nogroup(pending) then
    reset_reservations()
    return {}
  elseif pending.err then
    -- Not "none": a worker that seems to hold nothing is forgotten with what it holds.
    return redis.call('XPENDING', base .. 'reservations', 'workers', '-', '+', limit, worker)
  end
  return pending
end

-- A worker lives. It says itself after how long a silence it is dead, which every sweeper goes by.
local function note_sign_of_life(worker, timeout_ms)
  redis.call('ZADD', base .. 'workers', now, worker)
  redis.call('ZADD', base .. 'dead_at', now + timeout_ms, worker)
end

-- Forget a worker that holds nothing any more; answers 1 if it was known.
local function remove_worker(worker)
  redis.pcall('XGROUP', 'DELCONSUMER', base .. 'reservations', 'workers', worker)
  redis.call('ZREM', base .. 'workers', worker)
  redis.call('HDEL', base .. 'worker_info', worker)
  return redis.call('ZREM', base .. 'dead_at', worker)
end

