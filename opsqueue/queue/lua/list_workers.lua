-- list_workers: reading.
--
-- What they hold is counted by count_held.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] limit  the most workers, the last seen first
--
-- Returns {"listed", now, workers}: {worker, last_seen, info, dead_at} each; info is '' until its
-- first heartbeat.
local limit = tonumber(ARGV[2])

local seen = redis.call('ZREVRANGE', base .. 'workers', 0, limit - 1, 'WITHSCORES')
local names = {}
for i = 1, #seen, 2 do
  names[#names + 1] = seen[i]
end
if #names == 0 then
  return {'listed', now, {}}
end
local infos = redis.call('HMGET', base .. 'worker_info', unpack(names))
local dead_at = redis.call('ZMSCORE', base .. 'dead_at', unpack(names))
local rows = {}
for n, worker in ipairs(names) do
  rows[n] = {worker, tonumber(seen[2 * n]), infos[n] or '', tonumber(dead_at[n] or now)}
end
return {'listed', now, rows}
