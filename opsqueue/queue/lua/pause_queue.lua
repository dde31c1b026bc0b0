-- pause_queue: running -> paused.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"paused"}; pausing a paused queue changes nothing.
go_on_without_memory()
redis.call('SET', base .. 'paused', now, 'NX')
return {'paused'}
