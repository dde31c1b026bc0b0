-- set_limit: running -> running.
--
-- Sets or removes limits that take the place of a strategy's own number, for every worker's next
-- reserve.
--
-- KEYS[1]    base   prefix of the queue's keys
-- ARGV[1]    now    see _prelude
-- ARGV[2]    key    of strategic metadata
-- ARGV[3]    value  the only one that they are for; '' for all
-- ARGV[4...] rest   kind and limit of each: "max" and chunks in hand, or "rate" and
--                   "INTERVAL,BURST" (ticks of 10 ns, tokens); a limit of '' removes it
--
-- Returns {"set"}.
local key, value = ARGV[2], ARGV[3]
local limits = base .. 'limits'

for i = 4, #ARGV, 2 do
  local kind, limit = ARGV[i], ARGV[i + 1]
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
end
wake()
return {'set'}
