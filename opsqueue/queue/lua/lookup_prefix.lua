-- lookup_prefix: reading.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] prefix  of objects
--
-- Returns {"found", id}, or {"unknown"}.
local id = redis.call('HGET', base .. 'prefixes', ARGV[2])
-- The prefix of a forgotten submission is kept until its objects are deleted.
if id and redis.call('EXISTS', sub_key(id)) == 1 then
  return {'found', id}
end
return {'unknown'}
