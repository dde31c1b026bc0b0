-- set_defaults: running -> running.
--
-- Sets options of submissions that are inserted from now on and do not give them. What there is
-- keeps what it was inserted with.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  names, each with its value, '' for none
--
-- With _defaults.
--
-- Returns {"set"}; or {"refused", backoff_first_ms, backoff_max_ms}: the queue would have these,
-- and nothing is changed.
local given = {}
for i = 2, #ARGV, 2 do
  given[ARGV[i]] = ARGV[i + 1]
end
local before = queue_defaults()
local first_ms = given.backoff_first_ms or before[2] or ''
local max_ms = given.backoff_max_ms or before[3] or ''
if first_ms ~= '' and max_ms ~= '' and tonumber(first_ms) > tonumber(max_ms) then
  return {'refused', first_ms, max_ms}
end

for name, value in pairs(given) do
  if name == 'retention_ms' and value == '' then
    redis.call('DEL', base .. 'retention')
  elseif name == 'retention_ms' then
    redis.call('SET', base .. 'retention', value)
  elseif value == '' then
    redis.call('HDEL', base .. 'defaults', name)
  else
    redis.call('HSET', base .. 'defaults', name, value)
  end
end
return {'set'}
