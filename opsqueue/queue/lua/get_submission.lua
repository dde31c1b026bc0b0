-- get_submission: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
-- ARGV[2] id
--
-- Returns {"found", fields, metadata, failure}, each a flat list; or {"unknown"}.
local key = sub_key(ARGV[2])

local fields = redis.call('HGETALL', key)
if #fields == 0 then
  return {'unknown'}
end
return {'found', fields, redis.call('HGETALL', key .. ':meta'),
  redis.call('HGETALL', key .. ':failure')}
