-- set_limit: running -> running.
--
-- Sets or removes a limit that takes the place of a strategy's own number, for every worker's next
-- reserve.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] kind   "max" or "rate"
-- ARGV[3] key    of strategic metadata
-- ARGV[4] value  the only one that it is for; '' for all
-- ARGV[5] limit  chunks in hand, or "INTERVAL,BURST" (ticks of 10 ns, tokens); '' removes it
--
-- Returns {"set"}.
local kind, key, value, limit = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limits = base .. 'limits'

local field = kind .. ':' .. key .. (value ~= '' and ':' .. value or '')
if limit == '' then
  redis.call('HDEL', limits, field)
else
  redis.call('HSET', limits, field, limit)
  if value ~= '' and kind == 'rate' then
    redis.call('HSET', limits, 'own_rates:' .. key, 1)
  elseif value ~= '' then
    -- How far up the index of groups by chunks in hand there can be one below its limit.
    local most = tonumber(redis.call('HGET', limits, 'most:' .. key) or 0)
    redis.call('HSET', limits, 'most:' .. key, math.max(most, tonumber(limit)))
  end
end
wake()
return {'set'}
