-- count_queue: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"counted", names_and_numbers, stats}, flat lists both. chunks_lately, operations_lately
-- were completed in the last lately_ms.
local function size(command, key)
  return redis.call(command, base .. key)
end

local ready = size('ZCARD', 'ready')
for _, signature in ipairs(redis.call('SMEMBERS', base .. 'signatures')) do
  ready = ready + size('ZCARD', 'ready:' .. signature)
end

-- The slot that has begun, and the five before it.
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
  'workers', size('ZCARD', 'workers'),
  'chunks_lately', chunks_lately,
  'operations_lately', operations_lately,
  'lately_ms', now - begun + 50000,
  'is_paused', size('EXISTS', 'paused'),
}, size('HGETALL', 'stats')}
