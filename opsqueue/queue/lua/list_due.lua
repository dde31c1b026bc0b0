-- list_due: index.
--
-- KEYS[1] base   prefix of the index's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] limit  the most partitions
--
-- Returns {"listed", partitions}: those that are being swept, then those that are due first.
local last = tonumber(ARGV[2]) - 1
local listed = redis.call('ZRANGE', base .. 'taken', 0, last)
if #listed <= last then
  for _, partition in ipairs(redis.call('ZRANGE', base .. 'due', 0, last - #listed)) do
    listed[#listed + 1] = partition
  end
end
return {'listed', listed}
