-- inline_contents: reading.
--
-- The contents of a small submission in Redis; all are bounded, see
-- opsqueue/model/new_submission.py.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
-- ARGV[2] id
-- ARGV[3] kind   "in" or "out"
-- ARGV[4] index  of the only chunk; '' for all
--
-- Returns {"found", contents}, a flat list of indexes and bytes, or {"unknown"}.
local key, index = sub_key(ARGV[2]), ARGV[4]
local contents = key .. ':' .. ARGV[3]
if redis.call('EXISTS', key) == 0 then
  return {'unknown'}
elseif index == '' then
  return {'found', redis.call('HGETALL', contents)}
end
local data = redis.call('HGET', contents, index)
return {'found', data and {index, data} or {}}
