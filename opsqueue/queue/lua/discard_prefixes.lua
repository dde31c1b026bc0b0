-- discard_prefixes: -> forgotten.
--
-- Marks prefixes that no submission has as pending deletion, as forgetting does. From then on a
-- late insert is refused, so that it can't lose objects that are being deleted. If a queue has
-- several partitions, all must refuse before one may delete: the prefixes are first held.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2]    step  discard; or hold: only refuse inserts; or let_go: no longer refuse them
-- ARGV[3...] rest  prefixes
--
-- With _prefix.
--
-- Returns {"discarded", prefixes}: without those that a submission has or that don't have this
-- queue's form, and including those that were already pending deletion.
local step = ARGV[2]
local prefixes, garbage = base .. 'prefixes', base .. 'garbage'
local discarded = {}
for i = 3, #ARGV do
  local prefix = ARGV[i]
  -- With another queue's prefix, sweepers would delete that queue's objects.
  local is_own = is_own_prefix(prefix)
  if step == 'let_go' then
    if redis.call('HGET', prefixes, prefix) == ''
      and redis.call('SISMEMBER', garbage, prefix) == 0 then
      redis.call('HDEL', prefixes, prefix)
    end
  elseif is_own and (redis.call('HSETNX', prefixes, prefix, '') == 1
    or redis.call('HGET', prefixes, prefix) == '') then
    if step == 'discard' then
      redis.call('SADD', garbage, prefix)
    end
    discarded[#discarded + 1] = prefix
  elseif redis.call('SISMEMBER', garbage, prefix) == 1 then
    discarded[#discarded + 1] = prefix
  end
end
return {'discarded', discarded}
