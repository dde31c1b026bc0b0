-- note_due: index.
--
-- Notes when partitions need upkeep, see due.py. An earlier instant that is known stays.
--
-- KEYS[1]    base  prefix of the index's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2...] rest  name of a partition, milliseconds from now; any number of these pairs
--
-- Returns {"noted"}.
go_on_without_memory()
for i = 2, #ARGV, 2 do
  redis.call('ZADD', base .. 'due', 'LT', now + tonumber(ARGV[i + 1]), ARGV[i])
end
return {'noted'}
