-- get_partitions: reading.
--
-- KEYS[1] base  prefix of the queue's keys, in partition 0
-- ARGV[1] now   see _prelude
--
-- With _partitions.
--
-- Returns {"partitions", numbers}: all numbers that there were; the last one is current.
return {'partitions', partition_numbers()}
