-- unknown_prefixes: reading.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  prefixes of objects
--
-- Returns {"unknown", prefixes}: those that no submission has, and that are not being deleted. They
-- include prefixes that were held by a program that died before it discarded them.
local unknown = {}
for i = 2, #ARGV do
  local owner = redis.call('HGET', base .. 'prefixes', ARGV[i])
  if not owner
    or owner == '' and redis.call('SISMEMBER', base .. 'garbage', ARGV[i]) == 0 then
    unknown[#unknown + 1] = ARGV[i]
  end
end
return {'unknown', unknown}
