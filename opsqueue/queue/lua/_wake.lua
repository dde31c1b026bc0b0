-- Wake: which idle workers are told that a chunk may be free.
--
-- Workers that found nothing sleep in groups, one for each strategy. What frees chunks wakes one of
-- each group. That one wakes others of its group if it finds something and leaves something; if it
-- finds nothing, the others would not, either. A worker is woken by a message on a channel of its
-- own, `BASE wake:GROUP:WORKER`. If nobody receives it, because the worker is gone, the next one is
-- woken.

-- Wake one sleeper of a group, the one that fell asleep last; return whether there was one.
local function wake_one(group)
  local GONE_AT_MOST = 100
  for _ = 1, GONE_AT_MOST do
    local worker = redis.call('ZPOPMAX', base .. 'sleepers:' .. group)[1]
    if not worker then
      redis.call('SREM', base .. 'groups', group)
      return false
    end
    -- Not `call`: a user with rights of an older version may not publish, but must go on.
    if redis.pcall('SPUBLISH', base .. 'wake:' .. group .. ':' .. worker, '') ~= 0 then
      return true
    end
  end
  return false
end

-- Let a worker sleep. Return whether it comes back by itself at an instant (-1: never): some of its
-- group do, and not all of them at once.
local function fall_asleep(group, worker, at)
  local ALARMS = 3
  redis.call('ZADD', base .. 'sleepers:' .. group, now, worker)
  redis.call('SADD', base .. 'groups', group)
  if at < 0 then
    return true
  end
  local alarms = base .. 'alarms:' .. group
  redis.call('ZREMRANGEBYSCORE', alarms, '-inf', now)
  redis.call('ZREM', alarms, worker)
  if redis.call('ZCOUNT', alarms, '-inf', at) >= ALARMS then
    return false
  end
  redis.call('ZADD', alarms, at, worker)
  redis.call('PEXPIRE', alarms, string.format('%.0f', at - now + 60000))
  return true
end

-- Note that a worker sleeps no longer.
local function wake_up(group, worker)
  redis.call('ZREM', base .. 'sleepers:' .. group, worker)
  redis.call('ZREM', base .. 'alarms:' .. group, worker)
end

-- Wake two more of a group after one of it has found chunks, if there are more.
local function wake_more(group)
  if redis.call('EXISTS', base .. 'ready', base .. 'signatures') > 0 and wake_one(group) then
    wake_one(group)
  end
end

-- Wake one sleeper of each group; of very many groups, of some. What is missed is found by the look
-- that belongs to each heartbeat.
local function wake()
  local GROUPS_AT_MOST = 50
  for _, group in ipairs(redis.call('SRANDMEMBER', base .. 'groups', GROUPS_AT_MOST)) do
    wake_one(group)
  end
  redis.call('XADD', base .. 'wake', 'MAXLEN', 1, '*', 'at', now)  -- for versions up to 0.1
end
