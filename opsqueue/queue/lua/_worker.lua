-- Worker: the reservations of a worker, which of them have begun, and its removal.
--
-- With _entry, _stream, _wake.

-- Return the entries pending for a worker, all or those in a range of ids: {token, worker, idle,
-- deliveries} each, oldest first.
local function pending_of(worker, limit, from, to)
  from, to = from or '-', to or '+'
  local pending = redis.pcall('XPENDING', base .. 'reservations', 'workers', from, to, limit,
    worker)
  if is_nogroup(pending) then
    reset_reservations()
    return {}
  elseif pending.err then
    -- Not "none": a worker that seems to hold nothing is forgotten with what it holds.
    return redis.call('XPENDING', base .. 'reservations', 'workers', from, to, limit, worker)
  end
  return pending
end

-- Return a function that returns whether the worker has begun the handler of an entry, as it
-- reported last; nil if it never reports this, so that everything it holds counts as begun.
local function begun_of(worker)
  local reported = redis.call('HGET', base .. 'begun', worker)
  if not reported then
    return nil
  elseif string.sub(reported, 1, 1) ~= ' ' then
    -- An older version's, in any order.
    local is_begun = {}
    for entry_id in string.gmatch(reported, '%S+') do
      is_begun[entry_id] = true
    end
    return function(entry_id)
      return is_begun[entry_id]
    end
  end
  -- Ascending, each after a space. A binary search, since to read thousands would take longer than
  -- to end a page of reservations.
  return function(entry_id)
    local from, to = 1, #reported
    while from <= to do
      local at = math.floor((from + to) / 2)
      while string.byte(reported, at) ~= 32 do
        at = at - 1
      end
      local found = string.match(reported, '^ (%S*)', at)
      if found == entry_id then
        return true
      elseif is_before(found, entry_id) then
        from = at + 1 + #found
      else
        to = at - 1
      end
    end
    return false
  end
end

-- Wake a worker no longer; before others are woken, so that none of that is lost on it.
local function forget_sleeper(worker)
  for _, group in ipairs(redis.call('SRANDMEMBER', base .. 'groups', 50)) do
    wake_up(group, worker)
  end
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
  forget_sleeper(worker)
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
