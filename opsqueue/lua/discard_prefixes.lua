-- discard_prefixes: -> forgotten.
--
-- Makes prefixes that no submission has garbage, as forgetting does: from here on an insert that
-- comes late after all is refused, so that it can't lose objects that are being deleted.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  prefixes
--
-- Returns {"discarded", prefixes}: without those that a submission has, and with those that were
-- garbage before.
local discarded = {}
for i = 2, #ARGV do
  local prefix = ARGV[i]
  if redis.call('HSETNX', base .. 'prefixes', prefix, '') == 1 then
    redis.call('SADD', base .. 'garbage', prefix)
  end
  if redis.call('SISMEMBER', base .. 'garbage', prefix) == 1 then
    discarded[#discarded + 1] = prefix
  end
end
return {'discarded', discarded}
