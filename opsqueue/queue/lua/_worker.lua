-- Worker: the reservations of a worker, which of them have begun, and its removal.
--
-- With _stream.

-- Return the entries pending for a worker: {token, worker, idle, deliveries} each, oldest first.
local function pending_of(worker, limit)
  local pending = redis.pcall('XPENDING', base .. 'reservations', 'workers', '-', '+', limit,
    worker)
  if is_nogroup(pending) then
    reset_reservations()
    return {}
  elseif pending.err then
    -- Not "none": a worker that seems to hold nothing is forgotten with what it holds.
    return redis.call('XPENDING', base .. 'reservations', 'workers', '-', '+', limit, worker)
  end
  return pending
end

-- Return a set of the entries whose handlers the worker has begun, as it reported them last; nil if
-- it never reports them, so that everything it holds counts as begun.
local function begun_of(worker)
  local reported = redis.call('HGET', base .. 'begun', worker)
  if not reported then
    return nil
  end
  local is_begun = {}
  for entry_id in string.gmatch(reported, '%S+') do
    is_begun[entry_id] = true
  end
  return is_begun
end

-- Forget a worker that no longer holds anything; return 1 if it was known.
local function remove_worker(worker)
  if redis.call('HDEL', base .. 'hosts', worker) == 1 then
    wake()  -- the next suspect may have a worker
  end
  local drainer = redis.call('GET', base .. 'drainer')
  if drainer and string.match(drainer, ' (.*)$') == worker then
    redis.call('DEL', base .. 'drainer')
  end
  redis.pcall('XGROUP', 'DELCONSUMER', base .. 'reservations', 'workers', worker)
  redis.call('ZREM', base .. 'workers', worker)
  redis.call('HDEL', base .. 'worker_info', worker)
  redis.call('HDEL', base .. 'begun', worker)
  return redis.call('ZREM', base .. 'dead_at', worker)
end

-- Only one worker at a time sweeps: return whether `worker` may, for the next `lock_ms`.
local function take_sweep(name, worker, lock_ms)
  local key = base .. 'sweeper:' .. name
  local owner = redis.call('GET', key)
  if owner and owner ~= worker then
    return false
  end
  redis.call('SET', key, worker, 'PX', lock_ms)
  return true
end
