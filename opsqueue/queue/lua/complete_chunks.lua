-- complete_chunks: reserved -> completed.
--
-- A counter changes only if the chunk's bit does, so nothing is counted twice; the last bit
-- completes the submission. Operations that failed are among those done: beyond the submission's
-- limit it fails, with this chunk done and the rest dropped. An output is passed if submission and
-- output are small; the first report's output is kept, like the first object in the store.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  token, operations_failed, has_output (0 or 1) and output of each chunk
--
-- With _end_submission, _in_hand, _reported.
--
-- Returns a flat list, for each "completed", id, chunks_left; "limit_passed", id, chunks_left:
-- completed, and the submission failed with it; "lost", "", 0: the reservation has ended, and
-- others may have the chunk; or "dropped", id, 0: the submission had ended. It is only for the
-- first reports, if they cost so much that the others are left to another call.

-- The data of a submission and the changes of this call, which are stored once.
local subs, order = {}, {}
local function known(id)
  local sub = subs[id]
  if not sub then
    local row = redis.call('HMGET', sub_key(id), 'state', 'chunks_total', 'chunk_size',
      'operations_total', 'chunks_done', 'operations_done', 'operations_failed',
      'chunks_in_hand', 'max_failed_operations', 'watched_until', 'signature')
    sub = {key = sub_key(id), state = row[1], total = tonumber(row[2]), size = tonumber(row[3]),
      operations_total = tonumber(row[4]), done = tonumber(row[5]),
      operations_done = tonumber(row[6]), operations_failed = tonumber(row[7]),
      in_hand = tonumber(row[8]), limit = row[9], watched_until = row[10],
      signature = row[11], ended = 0, changed = false, outputs = {}}
    if sub.signature then
      work = work + 5 + 5 * redis.call('HLEN', sub.key .. ':meta')
    end
    subs[id] = sub
    order[#order + 1] = id
  end
  return sub
end

-- Which reports this call can bear, by the submissions that the tokens name.
local tokens = {}
for i = 2, #ARGV, 4 do
  local id = string.match(ARGV[i], ':(%d+):')
  if id then
    known(id)
  end
  tokens[#tokens + 1] = ARGV[i]
  if work >= MOST_WORK then
    break
  end
end
local entries = end_reservations(tokens)

local function write_down(sub)
  if #sub.outputs > 0 then
    redis.call('HSET', sub.key .. ':out', unpack(sub.outputs))
    sub.outputs = {}
  end
  redis.call('HSET', sub.key, 'chunks_done', sub.done, 'chunks_in_hand', sub.in_hand,
    'operations_done', string.format('%.0f', sub.operations_done),
    'operations_failed', string.format('%.0f', sub.operations_failed))
end

local totals = {chunks = 0, operations = 0, failed = 0}
local function complete(token, operations_failed, has_output, output)
  local entry = entries[token]
  if not entry then
    return 'lost', '', 0
  end
  entries[token] = nil  -- a second report of the same token is lost
  local id, index = entry[2], tonumber(entry[4])
  local sub = known(id)
  if sub.state then
    sub.ended = sub.ended + 1
    sub.in_hand = sub.in_hand - 1
  end
  if sub.state ~= 'in_progress' then
    put_back(id, index, sub.state)
    return 'dropped', id, 0
  end
  if redis.call('SETBIT', sub.key .. ':done', index, 1) == 1 then
    return 'completed', id, sub.total - sub.done
  end
  if has_output == '1' then
    sub.outputs[#sub.outputs + 1] = index
    sub.outputs[#sub.outputs + 1] = output
  end
  local operations = sub.size
  if index == sub.total - 1 then
    operations = sub.operations_total - (sub.total - 1) * sub.size
  end
  sub.changed = true
  sub.done = sub.done + 1
  sub.operations_done = sub.operations_done + operations
  totals.chunks = totals.chunks + 1
  totals.operations = totals.operations + operations
  if operations_failed ~= '0' then
    -- Never more than there are, whatever a consumer reports.
    local failed = math.min(tonumber(operations_failed), operations)
    redis.call('SETBIT', sub.key .. ':errors', index, 1)
    sub.operations_failed = sub.operations_failed + failed
    totals.failed = totals.failed + failed
    if sub.limit and sub.operations_failed > tonumber(sub.limit) then
      write_down(sub)
      fail_past_limit(id, index, string.format('%.0f', sub.operations_failed), sub.limit)
      sub.state = 'failed'
      return 'limit_passed', id, sub.total - sub.done
    end
  end
  if sub.done == sub.total then
    write_down(sub)
    end_submission(id, 'completed')
    sub.state = 'completed'
  end
  return 'completed', id, sub.total - sub.done
end

-- Count for the rate: recent completions, in slots of 10 s.
local function count_recent(chunks, operations)
  local recent = base .. 'recent'
  local slot = string.format('%.0f', now - now % 10000)
  if redis.call('HINCRBY', recent, 'c:' .. slot, chunks) == chunks then
    -- The first of its slot; the first one after a pause finds older ones, which are few.
    for _, field in ipairs(redis.call('HKEYS', recent)) do
      if tonumber(string.sub(field, 3)) < now - 70000 then
        redis.call('HDEL', recent, field)
      end
    end
  end
  redis.call('HINCRBY', recent, 'o:' .. slot, operations)
end

local answers = {}
for i = 2, 4 * #tokens, 4 do
  local n = #answers
  answers[n + 1], answers[n + 2], answers[n + 3] =
    complete(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
for _, id in ipairs(order) do
  local sub = subs[id]
  if sub.ended > 0 then
    write_down(sub)
    if sub.signature then
      note_in_hand(redis.call('HGETALL', sub.key .. ':meta'), 0 - sub.ended)
    end
  end
  if sub.changed and sub.state == 'in_progress' then
    tell_watchers(id, sub.watched_until, 'done')
  end
end
write_counts()
if totals.chunks > 0 then
  count('chunks_completed', totals.chunks)
  count('backlog_chunks', 0 - totals.chunks)
  count('operations_completed', totals.operations)
  count('backlog_operations', 0 - totals.operations)
  count_recent(totals.chunks, totals.operations)
end
if totals.failed > 0 then
  count('operations_failed', totals.failed)
end
return answers
