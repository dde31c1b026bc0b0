-- insert_submission: -> ready.
--
-- The cost does not depend on the number of chunks: those not reserved yet are one integer, the
-- cursor. A known idempotency key returns the first submission and changes nothing: the caller
-- compares the two requests. Inputs, which only small submissions pass, cost by their bytes.
--
-- KEYS[1]     base            prefix of the queue's keys
-- ARGV[1]     now             see _prelude
-- ARGV[2]     partition       two digits, the end of the id
-- ARGV[3]     partitions      number that the caller knows; only in partition 0, '' elsewhere
-- ARGV[4]     idempotency     key, '' for none
-- ARGV[5]     idempotency_ms  how long the key is remembered
-- ARGV[6]     prefix          of the chunks' objects; used by this submission only;
--                             the queue's name, a slash and 32 hexadecimal digits
-- ARGV[7]     chunks_total
-- ARGV[8]     chunk_size      operations in a chunk
-- ARGV[9]     operations_total
-- ARGV[10]    meta_count      pairs of strategic metadata
-- ARGV[11]    inline_count    inputs that are passed: of all chunks, or 0
-- ARGV[12]    max_attempts              of a chunk; '' for the queue's default
-- ARGV[13]    backoff_first_ms          wait before the second attempt, likewise
-- ARGV[14]    backoff_max_ms            longest wait before an attempt, likewise
-- ARGV[15]    retention_ms              counted from the end, likewise
-- ARGV[16]    fallback_max_attempts     if the queue has no default
-- ARGV[17]    fallback_backoff_first_ms
-- ARGV[18]    fallback_backoff_max_ms
-- ARGV[19]    fallback_retention_ms
-- ARGV[20...] rest            first those pairs, then other fields of sub:ID with their values,
--                             then those inputs
--
-- With _insert, _partitions, _prefix, _submission.
--
-- Returns {"inserted", id, submission, is_first}, with is_first 1 if the queue had none before or
-- was deleted; {"known", id, submission, options}: the first one, and the four options as this
-- insert would have them now; {"forgotten", id, state}: the first one's, and its final state, '' if
-- an earlier version forgot it; {"partitions", numbers}: other numbers than the caller knows;
-- {"prefix_taken", id}; or {"prefix_refused"}: it does not have the form of this queue's inserts.
local partition, partitions, idempotency = ARGV[2], ARGV[3], ARGV[4]
local idempotency_ms, prefix = ARGV[5], ARGV[6]
local chunks_total, chunk_size, operations_total = ARGV[7], ARGV[8], ARGV[9]
local meta_count, inline_count = tonumber(ARGV[10]), tonumber(ARGV[11])

if partitions ~= '' then
  local numbers = partition_numbers()
  if numbers[#numbers] ~= tonumber(partitions) then
    return {'partitions', numbers}
  end
end

local options = options_of({ARGV[12], ARGV[13], ARGV[14], ARGV[15]},
  {ARGV[16], ARGV[17], ARGV[18], ARGV[19]})
if idempotency ~= '' then
  local known = redis.call('GET', base .. 'idem:' .. idempotency)
  if known then
    local row = submission_row(known)
    if #row == 0 then
      return {'forgotten', known, redis.call('GET', base .. 'forgotten:' .. known) or ''}
    end
    return {'known', known, row, options}
  end
end
if not is_own_prefix(prefix) then
  return {'prefix_refused'}
end
local owner = redis.call('HGET', base .. 'prefixes', prefix)
if owner then
  return {'prefix_taken', owner}
end

local fields_from, inline_from = 20 + 2 * meta_count, #ARGV - inline_count + 1
local is_first = redis.call('HEXISTS', base .. 'stats', 'submissions_inserted') == 0
  and 1 or 0
local id = next_id(partition)
add_submission(id, {prefix = prefix, chunks_total = chunks_total, chunk_size = chunk_size,
  operations_total = operations_total, cursor = 0,
  options = options,
  pairs = {unpack(ARGV, 20, fields_from - 1)},
  fields = {unpack(ARGV, fields_from, inline_from - 1)}})
if inline_count > 0 then
  local key = sub_key(id)
  redis.call('HSET', key, 'inline', 1)
  local fields = {}
  for i = inline_from, #ARGV do
    fields[#fields + 1], fields[#fields + 2] = i - inline_from, ARGV[i]
    if #fields == 1000 or i == #ARGV then
      redis.call('HSET', key .. ':in', unpack(fields))
      fields = {}
    end
  end
end
if idempotency ~= '' then
  redis.call('SET', base .. 'idem:' .. idempotency, id, 'PX', idempotency_ms)
  redis.call('HSET', sub_key(id), 'idempotency', idempotency)
end

if chunks_total == '0' then
  end_submission(id, 'completed')
  return {'inserted', id, submission_row(id), is_first}
end
count('backlog_chunks', chunks_total)
count('backlog_operations', operations_total)
offer(id)
return {'inserted', id, submission_row(id), is_first}
