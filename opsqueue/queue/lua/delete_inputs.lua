-- delete_inputs: completed -> completed.
--
-- Inputs whose deletion was requested at the insert, in a bounded step. The caller deletes some of
-- those returned and reports this with its next call, so a crash between the two leaks nothing.
-- Those with the fewest deleted come first, so that a large submission doesn't delay the others.
--
-- KEYS[1]    base   prefix of the queue's keys
-- ARGV[1]    now    see _prelude
-- ARGV[2]    limit  submissions returned
-- ARGV[3...] rest   id, index: its inputs below the index are deleted
--
-- Returns {"inputs", rows}; rows {id, prefix, first index that is left, chunks_total} each.
local limit = tonumber(ARGV[2])
local spent = base .. 'spent_inputs'

go_on_without_memory()
for i = 3, #ARGV, 2 do
  local id, index = ARGV[i], tonumber(ARGV[i + 1])
  local first = redis.call('ZSCORE', spent, id)
  if first then
    local total = redis.call('HGET', sub_key(id), 'chunks_total')
    if index >= tonumber(total) then
      redis.call('ZREM', spent, id)
    elseif index > tonumber(first) then
      redis.call('ZADD', spent, index, id)
    end
  end
end
local rows = {}
local left = redis.call('ZRANGE', spent, 0, limit - 1, 'WITHSCORES')
for i = 1, #left, 2 do
  local row = redis.call('HMGET', sub_key(left[i]), 'prefix', 'chunks_total')
  rows[#rows + 1] = {left[i], row[1], tonumber(left[i + 1]), tonumber(row[2])}
end
return {'inputs', rows}
