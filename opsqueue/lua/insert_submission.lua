-- insert_submission: -> ready.
--
-- Costs the same for one chunk and for a million: what is not handed out yet is one integer, the
-- cursor. The same idempotency key answers the first one's id and changes nothing. Inputs that
-- come along, of small submissions alone, cost by their bytes.
--
-- KEYS[1]     base            prefix of the queue's keys
-- ARGV[1]     now             see _prelude
-- ARGV[2]     partition       two digits, the end of the id
-- ARGV[3]     idempotency     key, '' for none
-- ARGV[4]     idempotency_ms  how long the key is remembered
-- ARGV[5]     prefix          where the chunks' objects lie; of this submission alone
-- ARGV[6]     chunks_total
-- ARGV[7]     chunk_size      operations a chunk
-- ARGV[8]     operations_total
-- ARGV[9]     meta_count      pairs of strategic metadata
-- ARGV[10]    inline_count    inputs that come along: of all chunks, or 0
-- ARGV[11...] rest            first those pairs, then fields of sub:ID with their values, then
--                             those inputs
--
-- Returns {"inserted", id}, {"known", id}, or {"prefix_taken", id}.
local partition, idempotency, idempotency_ms, prefix = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local chunks_total, chunk_size, operations_total = ARGV[6], ARGV[7], ARGV[8]
local meta_count, inline_count = tonumber(ARGV[9]), tonumber(ARGV[10])

if idempotency ~= '' then
  local known = redis.call('GET', base .. 'idem:' .. idempotency)
  if known then
    return {'known', known}
  end
end
local owner = redis.call('HGET', base .. 'prefixes', prefix)
if owner then
  return {'prefix_taken', owner}
end

-- Ids ascend even when the clock steps back or an instant has more than 10,000 of them. They are
-- text, since a Lua number holds only 53 bits.
local ms, sequence = now, 0
local last = redis.call('GET', base .. 'last_id')
if last then
  local last_ms = tonumber(string.sub(last, 1, 13))
  if ms <= last_ms then
    ms, sequence = last_ms, tonumber(string.sub(last, 14, 17)) + 1
    if sequence > 9999 then
      ms, sequence = ms + 1, 0
    end
  end
end
local stamp = string.format('%013.0f%04d', ms, sequence)
redis.call('SET', base .. 'last_id', stamp)
local id = stamp .. partition

local key = sub_key(id)
redis.call('HSET', key, 'state', 'in_progress', 'prefix', prefix, 'chunks_total', chunks_total,
  'chunk_size', chunk_size, 'operations_total', operations_total, 'cursor', 0, 'chunks_done', 0,
  'operations_done', 0, 'operations_failed', 0, 'chunks_in_hand', 0, 'created_at', now)
local fields_from, inline_from = 11 + 2 * meta_count, #ARGV - inline_count + 1
for i = fields_from, inline_from - 1, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
if inline_count > 0 then
  redis.call('HSET', key, 'inline', 1)
  for i = inline_from, #ARGV do
    redis.call('HSET', key .. ':in', i - inline_from, ARGV[i])
  end
end
if meta_count > 0 then
  for i = 11, fields_from - 1, 2 do
    redis.call('HSET', key .. ':meta', ARGV[i], ARGV[i + 1])
  end
  sign(id)
  change_pairs(id, 'ZADD')
end
redis.call('HSET', base .. 'prefixes', prefix, id)
if idempotency ~= '' then
  redis.call('SET', base .. 'idem:' .. idempotency, id, 'PX', idempotency_ms)
end
redis.call('ZADD', base .. 'submissions:in_progress', 0, id)
count('submissions_inserted', 1)
count('chunks_inserted', chunks_total)
count('operations_inserted', operations_total)
event(id, 'created')

if chunks_total == '0' then
  end_submission(id, 'completed')
  return {'inserted', id}
end
count('backlog_chunks', chunks_total)
count('backlog_operations', operations_total)
if redis.call('EXISTS', base .. 'reservations') == 0 then
  reset_reservations()
end
enter_ready(id)
wake()
return {'inserted', id}
