-- restore_submission: -> ready or completed.
--
-- Inserts a submission that was there before Redis lost its data, with the chunks whose outputs are
-- in the store done. Costs by the bytes of the bitmaps and the number of free chunks below the
-- cursor, which the caller bounds. All done: completed at once. More operations failed than it
-- allows: failed, as the report would have that passed its limit.
--
-- KEYS[1]     base               prefix of the queue's keys
-- ARGV[1]     now                see _prelude
-- ARGV[2]     partition          two digits, the end of the id
-- ARGV[3]     prefix             where the chunks' objects lie; of this submission alone
-- ARGV[4]     chunks_total
-- ARGV[5]     chunk_size         operations a chunk
-- ARGV[6]     operations_total
-- ARGV[7]     cursor             no chunk from here on is done
-- ARGV[8]     chunks_done        bits of the next
-- ARGV[9]     done               bitmap of finished chunks
-- ARGV[10]    operations_done    of these
-- ARGV[11]    operations_failed  of these
-- ARGV[12]    errors             bitmap of those with operations that failed
-- ARGV[13]    last_error         index of the last of them, or -1
-- ARGV[14]    idempotency        key of the insert, '' for none; unless another one has it by now
-- ARGV[15]    idempotency_ms     how long the key is remembered
-- ARGV[16]    meta_count         pairs of strategic metadata
-- ARGV[17]    redo_count         chunks below the cursor that are not done
-- ARGV[18]    max_attempts       of a chunk; '' for the queue's default
-- ARGV[19]    backoff_first_ms   before the second attempt, likewise
-- ARGV[20]    backoff_max_ms     before a later one, likewise
-- ARGV[21]    retention_ms       from its end on, likewise
-- ARGV[22]    fallback_max_attempts      where the queue has no default
-- ARGV[23]    fallback_backoff_first_ms
-- ARGV[24]    fallback_backoff_max_ms
-- ARGV[25]    fallback_retention_ms
-- ARGV[26...] rest               first those pairs, then other fields of sub:ID with their values,
--                                then the indexes of those chunks
--
-- With _insert, _submission.
--
-- Returns {"inserted", id, submission}, or {"prefix_taken", id}.
local prefix, chunks_total, operations_total = ARGV[3], ARGV[4], ARGV[6]
local chunks_done, operations_done, operations_failed = ARGV[8], ARGV[10], ARGV[11]
local meta_count, redo_count = tonumber(ARGV[16]), tonumber(ARGV[17])

local owner = redis.call('HGET', base .. 'prefixes', prefix)
if owner then
  return {'prefix_taken', owner}
end

local fields_from, redo_from = 26 + 2 * meta_count, #ARGV - redo_count + 1
local id = next_id(ARGV[2])
local key = sub_key(id)
add_submission(id, {prefix = prefix, chunks_total = chunks_total, chunk_size = ARGV[5],
  operations_total = operations_total, cursor = ARGV[7],
  options = options_of({ARGV[18], ARGV[19], ARGV[20], ARGV[21]},
    {ARGV[22], ARGV[23], ARGV[24], ARGV[25]}),
  pairs = {unpack(ARGV, 26, fields_from - 1)}, fields = {unpack(ARGV, fields_from, redo_from - 1)}})
redis.call('HSET', key, 'chunks_done', chunks_done, 'operations_done', operations_done,
  'operations_failed', operations_failed)
if chunks_done ~= '0' then
  redis.call('SET', key .. ':done', ARGV[9])
end
if operations_failed ~= '0' then
  redis.call('SET', key .. ':errors', ARGV[12])
end
for i = redo_from, #ARGV do
  redis.call('ZADD', key .. ':redo', ARGV[i], ARGV[i])
end
if ARGV[14] ~= '' then
  redis.call('SET', base .. 'idem:' .. ARGV[14], id, 'PX', ARGV[15], 'NX')
  redis.call('HSET', key, 'idempotency', ARGV[14])
end
count('chunks_completed', chunks_done)
count('operations_completed', operations_done)
count('operations_failed', operations_failed)
count('backlog_chunks', chunks_total - chunks_done)
count('backlog_operations', operations_total - operations_done)

local limit = redis.call('HGET', key, 'max_failed_operations')
if limit and tonumber(operations_failed) > tonumber(limit) then
  fail_past_limit(id, ARGV[13], operations_failed, limit)
elseif chunks_done == chunks_total then
  end_submission(id, 'completed')
else
  offer(id)
end
return {'inserted', id, submission_row(id)}
