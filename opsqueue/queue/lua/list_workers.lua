-- list_workers: reading.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] limit  the most workers, the last seen first
--
-- Returns {"listed", now, workers}: {worker, last_seen, info, chunks_in_hand, reserved_at, dead_at}
-- each; info is '' until its first heartbeat; reserved_at is that of its oldest reserved chunk, 0
-- if it has none.
local limit = tonumber(ARGV[2])

local function oldest_of(worker)
  local pending = redis.call('XPENDING', base .. 'reservations', 'workers', '-', '+', 1, worker)[1]
  local entry = pending and redis.call('XRANGE', base .. 'reservations', pending[1], pending[1])[1]
  return entry and tonumber(entry[2][8]) or 0
end

-- Without a group nothing is reserved.
local in_hand = {}
local pending = redis.pcall('XPENDING', base .. 'reservations', 'workers')
for _, row in ipairs(not pending.err and pending[4] or {}) do
  in_hand[row[1]] = tonumber(row[2])
end

local rows = {}
local seen = redis.call('ZREVRANGE', base .. 'workers', 0, limit - 1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local worker = seen[i]
  local held = in_hand[worker] or 0
  rows[#rows + 1] = {
    worker,
    tonumber(seen[i + 1]),
    redis.call('HGET', base .. 'worker_info', worker) or '',
    held,
    held > 0 and oldest_of(worker) or 0,
    tonumber(redis.call('ZSCORE', base .. 'dead_at', worker) or now),
  }
end
return {'listed', now, rows}
