-- End submission: the end of a submission, whether it succeeded or not.
--
-- With _index.

local function event(id, what)
  redis.call('XADD', base .. 'events', 'MAXLEN', '~', 10000, '*', 'submission', id, 'event', what)
end

-- Publish a change to those who watch a submission; `watched_until` is its field, false or text.
local function tell_watchers(id, watched_until, what)
  if watched_until and now < tonumber(watched_until) then
    redis.pcall('SPUBLISH', sub_key(id) .. ':news', '')
    -- For versions up to 0.1, which create the stream and read it.
    redis.call('XADD', sub_key(id) .. ':news', 'NOMKSTREAM', 'MAXLEN', 1, '*', 'what', what)
  end
end

-- Count a submission's duration, under the first bound that it does not exceed.
local BOUNDS_MS = {100, 500, 1000, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
  21600000, 86400000, 604800000}
local function count_duration(state, created_at)
  local took_ms = math.max(0, now - tonumber(created_at))
  local bound = 'inf'
  for _, bound_ms in ipairs(BOUNDS_MS) do
    if took_ms <= bound_ms then
      bound = string.format('%.0f', bound_ms)
      break
    end
  end
  redis.call('HINCRBY', base .. 'durations', state .. ':' .. bound, 1)
  redis.pcall('HINCRBY', base .. 'durations', state .. ':sum', string.format('%.0f', took_ms))
end

local DEFAULT_RETENTION_MS = 24 * 3600 * 1000

-- Move a submission from in_progress to `state`, and out of every index of work. `failed` of its
-- chunks are neither done nor dropped.
local function end_submission(id, state, failed)
  local key = sub_key(id)
  redis.call('HSET', key, 'state', state, 'ended_at', now)
  redis.call('ZREM', base .. 'submissions:in_progress', id)
  redis.call('ZADD', base .. 'submissions:' .. state, 0, id)
  local row = redis.call('HMGET', key, 'retention_ms', 'watched_until', 'chunks_total',
    'chunks_done', 'operations_total', 'operations_done', 'delete_inputs', 'inline',
    'created_at')
  local retention_ms = row[1] or redis.call('GET', base .. 'retention') or DEFAULT_RETENTION_MS
  redis.call('ZADD', base .. 'expiring', now + tonumber(retention_ms), id)
  leave_ready(id)
  count('submissions_' .. state, 1)
  count_duration(state, row[9])
  event(id, state)
  tell_watchers(id, row[2], state)
  redis.pcall('SPUBLISH', key .. ':end', '')
  if state ~= 'completed' then
    count('chunks_dropped', row[3] - row[4] - failed)
    count('backlog_chunks', row[4] - row[3])
    count('backlog_operations', row[6] - row[5])
    return
  end
  -- All bits are set, which the state tells as well.
  redis.call('UNLINK', key .. ':done', key .. ':redo', key .. ':attempts')
  if row[7] and row[8] then
    redis.call('UNLINK', key .. ':in')
  elseif row[7] and row[3] ~= '0' then
    redis.call('ZADD', base .. 'spent_inputs', 0, id)
  end
end

-- Fail a submission of which more operations failed than it allows. Chunk `index`, which exceeded
-- the limit, is done like those before it.
local function fail_past_limit(id, index, failed, limit)
  local key = sub_key(id)
  local used = redis.call('HGET', key .. ':attempts', index) or 0
  redis.call('HSET', key .. ':failure', 'chunk_index', index, 'attempt', used + 1, 'at', now,
    'type', 'TooManyFailedOperations', 'message', failed .. ' operations failed, of '
    .. redis.call('HGET', key, 'operations_total') .. ' in all; max_failed_operations is '
    .. limit, 'traceback', '')
  end_submission(id, 'failed', 0)
end
