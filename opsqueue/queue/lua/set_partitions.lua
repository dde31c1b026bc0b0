-- set_partitions: running -> running.
--
-- Lets submissions from now on be spread over more partitions: the end of a submission's id says in
-- which one it is, so those that are there stay where they are. Never fewer.
--
-- KEYS[1] base        prefix of the queue's keys, in partition 0
-- ARGV[1] now         see _prelude
-- ARGV[2] partitions  1 to 100
--
-- With _partitions.
--
-- Returns {"set", numbers} or {"fewer", numbers}: all numbers that there were, the last one holds.
local numbers = partition_numbers()
local wanted = tonumber(ARGV[2])
if wanted < numbers[#numbers] then
  return {'fewer', numbers}
end
if wanted > numbers[#numbers] then
  redis.call('RPUSH', base .. 'partitions', wanted)
  numbers[#numbers + 1] = wanted
end
return {'set', numbers}
