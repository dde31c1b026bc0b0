-- delete_queue: running -> deleted.
--
-- Deletes the data of an empty queue: settings, totals, events. What expires by itself is kept
-- until then: idempotency keys of forgotten submissions, and buckets. The tags of partitions stay,
-- and with them the format: programs remember them, and the queue may be created again.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] action  "look" changes nothing, "delete"
-- ARGV[3] unused  1: settings, workers that count as dead and events of the last hour keep it, too
--
-- With _events, _partitions.
--
-- Returns {"deleted"}, or {"in_use", names_and_numbers}: its contents, a flat list.
local in_use = {}
local function add(name, number)
  if number > 0 then
    in_use[#in_use + 1] = name
    in_use[#in_use + 1] = number
  end
end
for _, state in ipairs({'in_progress', 'completed', 'failed', 'cancelled'}) do
  add('submissions ' .. string.gsub(state, '_', ' '),
    redis.call('ZCARD', base .. 'submissions:' .. state))
end
add('reserved chunks', redis.call('XLEN', base .. 'reservations'))
add('prefixes pending deletion', redis.call('SCARD', base .. 'garbage'))
-- Live workers would create it again with their next heartbeat.
add('live workers',
  redis.call('ZCOUNT', base .. 'dead_at', '(' .. string.format('%.0f', now), '+inf'))
if ARGV[3] == '1' then
  local event = redis.call('XREVRANGE', base .. 'events', '+', '-', 'COUNT', 1)[1]
  local event_s = event and math.floor(string.match(event[1], '^%d+') / 1000)
  add('recent events', event and redis.call('TIME')[1] - event_s < EVENTS_KEPT_S and 1 or 0)
  add('workers', redis.call('ZCARD', base .. 'dead_at'))
  add('prefixes', redis.call('HLEN', base .. 'prefixes'))
  add('settings', redis.call('EXISTS', base .. 'limits', base .. 'defaults', base .. 'retention',
    base .. 'paused', base .. 'partitions', base .. 'spread_by'))
end
if #in_use > 0 then
  return {'in_use', in_use}
elseif ARGV[2] == 'look' then
  return {'deleted'}
end

go_on_without_memory()
local numbers = partition_numbers()
for number = 1, numbers[#numbers] - 1 do
  redis.call('HSETNX', base .. 'tags', number, default_tag(number))
end
if redis.call('EXISTS', base .. 'tags') == 0 then
  redis.call('DEL', base .. 'format')
end
for _, group in ipairs(redis.call('SMEMBERS', base .. 'groups')) do
  redis.call('DEL', base .. 'sleepers:' .. group, base .. 'alarms:' .. group)
end
for _, name in ipairs({'groups', 'ready', 'signatures', 'limits', 'blocked', 'expiring', 'delayed',
  'reservations', 'workers', 'dead_at', 'worker_info', 'begun', 'inhand', 'prefixes',
  'spent_inputs', 'partitions', 'spread_by', 'defaults', 'retention', 'wake', 'events', 'stats',
  'durations',
  'recent', 'confirmed', 'history', 'suspect', 'repair', 'repair:held', 'paused', 'fence',
  'sweeper:dead', 'sweeper:expired', 'sweeper:repair', 'suspects', 'hosts', 'isolating',
  'drainer'}) do
  redis.call('DEL', base .. name)
end
-- Ids must ascend even if the queue is created again at once, or after the clock was set back.
redis.call('PEXPIRE', base .. 'last_id', 24 * 3600 * 1000)
return {'deleted'}
