-- set_partitions: running -> running.
--
-- Spreads submissions over more partitions from now on. The end of a submission's id is its
-- partition, so present ones stay where they are. The number can't decrease.
--
-- Tags of new partitions are chosen in a step before, since the caller gives those partitions their
-- settings before anything else uses them. A tag never changes.
--
-- KEYS[1]    base        prefix of the queue's keys, in partition 0
-- ARGV[1]    now         see _prelude
-- ARGV[2]    partitions  1 to 100
-- ARGV[3]    step        "choose" only stores tags, "set" sets the number
-- ARGV[4]    by          with "set": key of strategic metadata whose value chooses the partition of
--                        a submission from now on; '' changes nothing
-- ARGV[5...] rest        the tags: number of a partition and its tag, alternating
--
-- With _partitions.
--
-- Returns {"set", numbers} or {"fewer", numbers}: all numbers that there were; the last is current.
local numbers = partition_numbers()
local wanted, count, by = tonumber(ARGV[2]), numbers[#numbers], ARGV[4]
if wanted < count then
  return {'fewer', numbers}
end
for i = 5, #ARGV, 2 do
  local number, tag = tonumber(ARGV[i]), ARGV[i + 1]
  local is_new = number >= count and redis.call('HSETNX', base .. 'tags', number, tag) == 1
  -- Older programs would look for the partition's keys at other names.
  if is_new and tag ~= default_tag(number) and format < 3 then
    redis.call('SET', base .. 'format', 3)
  end
end
if ARGV[3] == 'set' and wanted > count then
  redis.call('RPUSH', base .. 'partitions', wanted)
  numbers[#numbers + 1] = wanted
end
if ARGV[3] == 'set' and by ~= '' then
  redis.call('SET', base .. 'spread_by', by)
  -- Older programs would look for idempotency keys in other partitions.
  if format < 3 then
    redis.call('SET', base .. 'format', 3)
  end
end
return {'set', numbers}
