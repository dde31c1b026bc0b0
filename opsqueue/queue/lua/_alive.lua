-- Alive: a worker's sign of life.

-- A worker lives. It says itself after how long a silence it is dead, which every sweeper goes by.
local function note_sign_of_life(worker, timeout_ms)
  redis.call('ZADD', base .. 'workers', now, worker)
  redis.call('ZADD', base .. 'dead_at', now + timeout_ms, worker)
end
