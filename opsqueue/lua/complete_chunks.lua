-- complete_chunks: reserved -> completed.
--
-- A counter moves only when the chunk's bit changes, so nothing is counted twice; the last bit
-- completes the submission. Operations that failed are part of those done: past the submission's
-- limit it fails, this chunk being done, and the rest is dropped. An output comes along where
-- submission and output are small; the first report's stays, as the first object does in the store.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  token, operations_failed, has_output (0 or 1) and output of each chunk
--
-- Returns for each {"completed", id, chunks_left}, or {"limit_passed", id, chunks_left}: completed,
-- and the submission failed with it; {"lost"}: somebody else holds or held it by now; or
-- {"dropped", id}: the submission had ended.

local function complete(token, operations_failed, has_output, output)
  local id, index, state = end_reservation(token)
  if not id then
    return {'lost'}
  end
  if state ~= 'in_progress' then
    put_back(id, index, state)
    return {'dropped', id}
  end
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'chunks_total', 'chunk_size', 'operations_total',
    'chunks_done', 'max_failed_operations', 'watched_until')
  local total, size = tonumber(row[1]), tonumber(row[2])
  if redis.call('SETBIT', key .. ':done', index, 1) == 1 then
    return {'completed', id, total - tonumber(row[4])}
  end
  if has_output == '1' then
    redis.call('HSET', key .. ':out', index, output)
  end
  local operations = size
  if index == total - 1 then
    operations = tonumber(row[3]) - (total - 1) * size
  end
  local done = redis.call('HINCRBY', key, 'chunks_done', 1)
  redis.call('HINCRBY', key, 'operations_done', operations)
  count('chunks_completed', 1)
  count('operations_completed', operations)
  count_recent(operations)
  count('backlog_chunks', -1)
  count('backlog_operations', -operations)
  if operations_failed ~= '0' then
    local failed = redis.call('HINCRBY', key, 'operations_failed', operations_failed)
    redis.call('SETBIT', key .. ':errors', index, 1)
    count('operations_failed', operations_failed)
    if row[5] and failed > tonumber(row[5]) then
      fail_past_limit(id, index, string.format('%.0f', failed), row[5])
      return {'limit_passed', id, total - done}
    end
  end
  if done == total then
    complete_submission(id)
  else
    tell_watchers(id, row[6], 'done')
  end
  return {'completed', id, total - done}
end

local answers = {}
for i = 2, #ARGV, 4 do
  answers[#answers + 1] = complete(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return answers
