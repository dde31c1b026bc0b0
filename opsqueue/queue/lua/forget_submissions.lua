-- forget_submissions: completed or failed or cancelled -> forgotten.
--
-- After its retention an ended submission is removed from Redis. Its prefix is pending deletion
-- until the caller reports that the objects are deleted, so a crash between the two leaks nothing.
-- One with reserved chunks waits, since their reports still count it down. Events older than an
-- hour are removed, too.
--
-- KEYS[1]    base   prefix of the queue's keys
-- ARGV[1]    now    see _prelude
-- ARGV[2]    limit  the most submissions, and prefixes; fewer submissions if each costs much
-- ARGV[3...] rest   prefixes whose objects have been deleted
--
-- With _events, _pairs.
--
-- Returns {"forgotten", submissions, prefixes}.
local limit = tonumber(ARGV[2])
local garbage = base .. 'garbage'

go_on_without_memory()
for i = 3, #ARGV do
  -- Only if it is pending deletion: after a second report the prefix may have its next owner.
  if redis.call('SREM', garbage, ARGV[i]) == 1 then
    redis.call('HDEL', base .. 'prefixes', ARGV[i])
  end
end
local forgotten = 0
local due = redis.call('ZRANGEBYSCORE', base .. 'expiring', '-inf', now, 'LIMIT', 0, limit)
for _, id in ipairs(due) do
  if work >= MOST_WORK then
    break
  end
  work = work + 10
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'state', 'prefix', 'chunks_in_hand', 'idempotency')
  if tonumber(row[3]) > 0 then
    redis.call('ZADD', base .. 'expiring', now + 60000, id)
  else
    redis.call('SADD', garbage, row[2])
    redis.call('ZREM', base .. 'expiring', id)
    redis.call('ZREM', base .. 'submissions:' .. row[1], id)
    redis.call('ZREM', base .. 'spent_inputs', id)
    change_pairs(id, 'ZREM')
    -- A key that outlives its submission keeps the submission's final state.
    local idempotency = row[4] and base .. 'idem:' .. row[4]
    if idempotency and redis.call('GET', idempotency) == id then
      redis.call('SET', base .. 'forgotten:' .. id, row[1], 'PX',
        math.max(1, redis.call('PTTL', idempotency)))
    end
    redis.call('UNLINK', key, key .. ':done', key .. ':errors', key .. ':redo', key .. ':attempts',
      key .. ':meta', key .. ':failure', key .. ':news', key .. ':in', key .. ':out')
    forgotten = forgotten + 1
  end
end
-- Entries have the server's own time, unlike a test's.
redis.call('XTRIM', base .. 'events', 'MINID', (redis.call('TIME')[1] - EVENTS_KEPT_S) .. '000')
return {'forgotten', forgotten, redis.call('SRANDMEMBER', garbage, limit)}
