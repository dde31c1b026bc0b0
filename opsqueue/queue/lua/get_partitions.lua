-- get_partitions: reading.
--
-- KEYS[1] base  prefix of the queue's keys, in partition 0
-- ARGV[1] now   see _prelude
--
-- With _partitions.
--
-- Returns {"partitions", numbers, tags, by}: all numbers that there were, the last one is current;
-- the tags that were chosen, a flat list of numbers and tags; and the key of strategic metadata
-- that chooses a submission's partition, '' for none.
return {'partitions', partition_numbers(), redis.call('HGETALL', base .. 'tags'),
  redis.call('GET', base .. 'spread_by') or ''}
