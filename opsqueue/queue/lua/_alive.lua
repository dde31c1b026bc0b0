-- Alive: a worker's heartbeat.

-- In how many milliseconds sweepers must look at this partition, if their index may not know it:
-- -1 if it does. Scripts return it last.
local due_in = -1

-- Record that a worker is alive, and from when it is dead, which all sweepers go by.
local function note_sign_of_life(worker, timeout_ms)
  local dead_at = redis.call('ZSCORE', base .. 'dead_at', worker)
  if not dead_at or now + timeout_ms < tonumber(dead_at) then
    due_in = timeout_ms
  end
  redis.call('ZADD', base .. 'workers', now, worker)
  redis.call('ZADD', base .. 'dead_at', now + timeout_ms, worker)
end
