-- get_retention: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"retention", milliseconds}, '' if the queue has none of its own.
return {'retention', redis.call('GET', base .. 'retention') or ''}
