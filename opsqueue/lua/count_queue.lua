-- count_queue: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"counted", names_and_numbers, stats}, flat lists both.
local function size(command, key)
  return redis.call(command, base .. key)
end

local ready = size('ZCARD', 'ready')
for _, signature in ipairs(redis.call('SMEMBERS', base .. 'signatures')) do
  ready = ready + size('ZCARD', 'ready:' .. signature)
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
  'is_paused', size('EXISTS', 'paused'),
}, size('HGETALL', 'stats')}
