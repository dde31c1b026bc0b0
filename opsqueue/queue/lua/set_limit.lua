-- set_limit: running -> running.
--
-- Sets or removes limits that replace a strategy's own number, from every worker's next reserve
-- on.
--
-- KEYS[1]    base   prefix of the queue's keys
-- ARGV[1]    now    see _prelude
-- ARGV[2]    key    of strategic metadata
-- ARGV[3]    value  the only one that they apply to; '' for all
-- ARGV[4...] rest   kind and limit of each: "max" and reserved chunks, or "rate" and
--                   "INTERVAL,BURST" (ticks of 10 ns, tokens); a limit of '' removes it
--
-- With _wake.
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
  end
end

-- What a reserve that finds nothing must know of the limits of single values: whether there are
-- rates, and how far up the index of groups by reserved chunks a group can be below its limit.
local has_rates, most = false, 0
local fields = redis.call('HGETALL', limits)
for i = 1, #fields, 2 do
  local kind, rest = string.match(fields[i], '^(%a+):(.*)$')
  local front = key .. ':'
  if rest and string.sub(rest, 1, #front) == front
    and string.match(string.sub(rest, #front + 1), '^%-?%d+$') then
    has_rates = has_rates or kind == 'rate'
    most = kind == 'max' and math.max(most, tonumber(fields[i + 1])) or most
  end
end
local function note(field, number)
  if number == 0 then
    redis.call('HDEL', limits, field)
  else
    redis.call('HSET', limits, field, number)
  end
end
note('own_rates:' .. key, has_rates and 1 or 0)
note('most:' .. key, most)
wake()
return {'set'}
