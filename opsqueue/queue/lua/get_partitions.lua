-- get_partitions: reading.
--
-- KEYS[1] base  prefix of the queue's keys, in partition 0
-- ARGV[1] now   see _prelude
--
-- Returns {"partitions", numbers}: all numbers that there were, the last one holds.
local numbers = {1}
for _, number in ipairs(redis.call('LRANGE', base .. 'partitions', 0, -1)) do
  numbers[#numbers + 1] = tonumber(number)
end
return {'partitions', numbers}
