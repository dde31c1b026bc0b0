-- retry_submission: failed or cancelled -> in_progress.
--
-- Finished chunks stay finished; every other one gets all its attempts again, and is reserved with
-- `again` if it was in hand before. An earlier reservation that was not reported yet is valid
-- again. A limit of failed operations no longer applies: if it was exceeded, the submission would
-- fail again at once. If its last chunk exceeded it, there is nothing left to do, and it completes.
--
-- Earlier back-offs end, since the cause is fixed: the queue's delayed chunks are scanned, some
-- hundreds in a call. If a caller dies in between, some wait for their time.
--
-- KEYS[1] base       prefix of the queue's keys
-- ARGV[1] now        see _prelude
-- ARGV[2] id
-- ARGV[3] scan_from  '' to retry it; then the last answer's scan_from
--
-- With _end_submission, _submission, _wake.
--
-- Returns {"retried", submission, scan_from}, '' if that was all; {"not_retryable", submission};
-- or {"unknown"}.
local id, scan_from = ARGV[2], ARGV[3]
local key = sub_key(id)

local function free_delayed()
  local is_free, delayed = false, base .. 'delayed'
  local found = redis.call('ZSCAN', delayed, scan_from == '' and '0' or scan_from,
    'MATCH', id .. ':*', 'COUNT', 150)
  for i = 1, #found[2], 2 do
    redis.call('ZREM', delayed, found[2][i])
    redis.call('ZREM', base .. 'suspects', found[2][i])
    is_free = put_back(id, string.match(found[2][i], '(%d+)$'), 'in_progress') or is_free
  end
  if is_free then
    wake()
  end
  return {'retried', submission_row(id), found[1] ~= '0' and found[1] or ''}
end

local row = redis.call('HMGET', key, 'state', 'cursor', 'chunks_total', 'chunks_done',
  'operations_total', 'operations_done')
local state = row[1]
if not state then
  return {'unknown'}
elseif scan_from ~= '' then
  return state == 'in_progress' and free_delayed() or {'retried', submission_row(id), ''}
elseif state ~= 'failed' and state ~= 'cancelled' then
  return {'not_retryable', submission_row(id)}
end
redis.call('HSET', key, 'state', 'in_progress', 'again_below', row[2])
redis.call('HDEL', key, 'ended_at', 'chunks_failed', 'max_failed_operations')
redis.call('UNLINK', key .. ':attempts', key .. ':failure')
redis.call('ZREM', base .. 'submissions:' .. state, id)
redis.call('ZADD', base .. 'submissions:in_progress', 0, id)
redis.call('ZREM', base .. 'expiring', id)
count('submissions_retried', 1)
count('backlog_chunks', row[3] - row[4])
count('backlog_operations', row[5] - row[6])
event(id, 'retried')
if row[3] == row[4] then
  end_submission(id, 'completed')
  return {'retried', submission_row(id), ''}
end
if tonumber(row[2]) < tonumber(row[3]) or redis.call('ZCARD', key .. ':redo') > 0 then
  enter_ready(id)
  wake()
end
return free_delayed()
