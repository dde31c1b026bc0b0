-- set_partitions: running -> running.
--
-- Spreads submissions over more partitions from now on. The end of a submission's id is its
-- partition, so present ones stay where they are. The number can't decrease.
--
-- KEYS[1] base        prefix of the queue's keys, in partition 0
-- ARGV[1] now         see _prelude
-- ARGV[2] partitions  1 to 100
--
-- With _partitions.
--
-- Returns {"set", numbers} or {"fewer", numbers}: all numbers that there were; the last is current.
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
