-- Alive: a worker's heartbeat.

-- Record that a worker is alive, and from when it is dead, which all sweepers go by.
local function note_sign_of_life(worker, timeout_ms)
  redis.call('ZADD', base .. 'workers', now, worker)
  redis.call('ZADD', base .. 'dead_at', now + timeout_ms, worker)
end
