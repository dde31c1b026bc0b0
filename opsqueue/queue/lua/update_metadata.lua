-- update_metadata: in_progress -> in_progress.
--
-- Changes strategic metadata of a submission in progress, and with it its place in every index:
-- reserved chunks now count for the new value.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2]    id
-- ARGV[3]    limit pairs that it may have afterwards
-- ARGV[4...] rest  key and value; an empty value removes the key
--
-- With _in_hand, _pairs, _submission.
--
-- Returns {"changed", submission}, {"ended", submission}, {"too_many", pairs}, or {"unknown"}.
local id, limit = ARGV[2], tonumber(ARGV[3])
local key = sub_key(id)
local meta = key .. ':meta'

local row = redis.call('HMGET', key, 'state', 'chunks_in_hand')
if not row[1] then
  return {'unknown'}
elseif row[1] ~= 'in_progress' then
  return {'ended', submission_row(id)}
end

local pairs_then = redis.call('HLEN', meta)
for i = 4, #ARGV, 2 do
  local is_there = redis.call('HEXISTS', meta, ARGV[i]) == 1
  if is_there and ARGV[i + 1] == '' then
    pairs_then = pairs_then - 1
  elseif not is_there and ARGV[i + 1] ~= '' then
    pairs_then = pairs_then + 1
  end
end
if pairs_then > limit then
  return {'too_many', pairs_then}
end

-- It leaves every index under the old pairs and enters them under the new ones, so that no pair is
-- a special case.
local in_hand = tonumber(row[2])
local was_ready = leave_ready(id)
count_in_hand(id, 0 - in_hand)
write_counts()
change_pairs(id, 'ZREM')
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', meta, ARGV[i])
  else
    redis.call('HSET', meta, ARGV[i], ARGV[i + 1])
  end
end
sign(id)
change_pairs(id, 'ZADD')
count_in_hand(id, in_hand)
write_counts()
if was_ready then
  enter_ready(id)
  wake()  -- a strategy may choose it now that did not before
end
return {'changed', submission_row(id)}
