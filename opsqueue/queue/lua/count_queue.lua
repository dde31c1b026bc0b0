-- count_queue: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"counted", names_and_numbers, stats}, both flat lists. chunks_lately and
-- operations_lately were completed in the last lately_ms; oldest_waiting_at is when the oldest
-- submission with a waiting chunk was inserted, 0 if there is none.
local function size(command, key)
  return redis.call(command, base .. key)
end

-- Ids start with the instant of their creation, and all have the same number of digits.
local ready, oldest = 0, nil
local function add_ready(key)
  local first = redis.call('ZRANGE', base .. key, 0, 0)[1]
  if first and (oldest == nil or first < oldest) then
    oldest = first
  end
  ready = ready + size('ZCARD', key)
end
add_ready('ready')
for _, signature in ipairs(redis.call('SMEMBERS', base .. 'signatures')) do
  add_ready('ready:' .. signature)
end

-- The present slot, and the five before it.
local begun = now - now % 10000
local chunks_lately, operations_lately = 0, 0
for slot = begun - 50000, begun, 10000 do
  local row = redis.call('HMGET', base .. 'recent', 'c:' .. string.format('%.0f', slot),
    'o:' .. string.format('%.0f', slot))
  chunks_lately = chunks_lately + (tonumber(row[1]) or 0)
  operations_lately = operations_lately + (tonumber(row[2]) or 0)
end

return {'counted', {
  'submissions_in_progress', size('ZCARD', 'submissions:in_progress'),
  'submissions_completed', size('ZCARD', 'submissions:completed'),
  'submissions_failed', size('ZCARD', 'submissions:failed'),
  'submissions_cancelled', size('ZCARD', 'submissions:cancelled'),
  'submissions_ready', ready,
  'chunks_delayed', size('ZCARD', 'delayed'),
  'chunks_in_hand', size('XLEN', 'reservations'),
  'workers', redis.call('ZCOUNT', base .. 'dead_at', '(' .. string.format('%.0f', now), '+inf'),
  'chunks_lately', chunks_lately,
  'operations_lately', operations_lately,
  'lately_ms', now - begun + 50000,
  'is_paused', size('EXISTS', 'paused'),
  'oldest_waiting_at', oldest and tonumber(string.sub(oldest, 1, 13)) or 0,
}, size('HGETALL', 'stats')}
