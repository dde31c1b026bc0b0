-- list_workers: reading.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] limit  workers at most, the ones seen last first
--
-- Returns {"listed", now, workers}: {worker, last_seen, info} each; info is '' until its first
-- heartbeat.
local limit = tonumber(ARGV[2])

local rows = {}
local seen = redis.call('ZREVRANGE', base .. 'workers', 0, limit - 1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local info = redis.call('HGET', base .. 'worker_info', seen[i])
  rows[#rows + 1] = {seen[i], tonumber(seen[i + 1]), info or ''}
end
return {'listed', now, rows}
