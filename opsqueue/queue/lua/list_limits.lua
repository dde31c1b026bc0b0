-- list_limits: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"listed", limits}, a flat list of fields as set_limit writes them.
return {'listed', redis.call('HGETALL', base .. 'limits')}
