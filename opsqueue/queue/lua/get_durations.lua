-- get_durations: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"durations", fields}: those of the key with that name, a flat list.
return {'durations', redis.call('HGETALL', base .. 'durations')}
