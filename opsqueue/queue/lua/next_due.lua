-- next_due: reading.
--
-- What a sweeper has to do in this partition, and when the next thing is due.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- With _events.
--
-- Returns {"due", dead_in, objects_in, reserved, is_repairing, in_progress}. dead_in: milliseconds
-- until the first worker counts as dead. objects_in: until there is something to forget or to
-- delete. Both are 0 if that is now, -1 if never. reserved and in_progress are numbers of chunks
-- and of submissions.
local EVENTS_SPAN_S = 60  -- old events are removed together with those of a minute

local function left_until(set)
  local first = redis.call('ZRANGE', base .. set, 0, 0, 'WITHSCORES')[2]
  return first and math.max(0, tonumber(first) - now) or -1
end

local objects_in = left_until('expiring')
local event = redis.call('XRANGE', base .. 'events', '-', '+', 'COUNT', 1)[1]
if redis.call('EXISTS', base .. 'garbage', base .. 'spent_inputs') > 0 then
  objects_in = 0
elseif event then
  -- Entries have the server's own time, unlike a test's.
  local age_s = redis.call('TIME')[1] - math.floor(string.match(event[1], '^%d+') / 1000)
  local old_in = math.max(0, EVENTS_KEPT_S + EVENTS_SPAN_S - age_s) * 1000
  objects_in = objects_in < 0 and old_in or math.min(objects_in, old_in)
end
return {'due', left_until('dead_at'), objects_in, redis.call('XLEN', base .. 'reservations'),
  redis.call('EXISTS', base .. 'repair'), redis.call('ZCARD', base .. 'submissions:in_progress')}
