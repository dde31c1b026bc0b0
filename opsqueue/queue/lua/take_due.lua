-- take_due: index.
--
-- Renews the lease of the one sweeper that leads, stores when what it has swept is due next, and
-- returns what is due now, the longest overdue first. Others are refused, except that a sweeper
-- that deletes the objects of all queues takes over from one that does not.
--
-- leader      string  rank and name of the sweeper that leads; expires with its lease
-- candidates  zset    those that were refused -> when
-- due         zset    partition -> instant at which it needs upkeep. A hint: a partition may be
--                     missing, and one without anything to do may be here
-- taken       zset    partitions that the leader is sweeping, no longer in `due`, so that whatever
--                     is noted meanwhile is seen. Those that a leader leaves behind are due at once
--
-- KEYS[1]    base       prefix of the index's keys
-- ARGV[1]    now        see _prelude
-- ARGV[2]    sweeper    its name
-- ARGV[3]    rank       1 if it deletes the objects of all queues, else 0
-- ARGV[4]    lease_ms   0: it resigns, if it leads
-- ARGV[5]    absent_ms  candidates that have not asked for this time no longer count
-- ARGV[6]    limit      the most partitions
-- ARGV[7...] rest       pairs: a partition that it has swept, and in how many milliseconds it is
--                       due next, '' for never
--
-- Returns {"leading", partitions} or {"refused", candidates}, their number.
local sweeper, rank, lease_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
local leader, candidates = base .. 'leader', base .. 'candidates'
local due, taken = base .. 'due', base .. 'taken'

go_on_without_memory()
local mine, holder = rank .. ' ' .. sweeper, redis.call('GET', leader)
if holder and holder ~= mine and string.sub(holder, 1, 1) >= rank then
  if lease_ms > 0 then
    redis.call('ZADD', candidates, now, sweeper)
  else
    redis.call('ZREM', candidates, sweeper)
  end
  redis.call('ZREMRANGEBYSCORE', candidates, '-inf', now - tonumber(ARGV[5]))
  return {'refused', redis.call('ZCARD', candidates)}
end

redis.call('ZREM', candidates, sweeper)
for i = 7, #ARGV, 2 do
  redis.call('ZREM', taken, ARGV[i])
  if ARGV[i + 1] ~= '' then
    redis.call('ZADD', due, 'LT', now + tonumber(ARGV[i + 1]), ARGV[i])
  end
end
for _, partition in ipairs(redis.call('ZRANGE', taken, 0, -1)) do
  redis.call('ZADD', due, 'LT', now, partition)
end
redis.call('DEL', taken)
if lease_ms == 0 then
  redis.call('DEL', leader)
  return {'leading', {}}
end
redis.call('SET', leader, mine, 'PX', lease_ms)
local page = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, tonumber(ARGV[6]))
for _, partition in ipairs(page) do
  redis.call('ZADD', taken, now, partition)
  redis.call('ZREM', due, partition)
end
return {'leading', page}
