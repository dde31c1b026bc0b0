-- resume_queue: paused -> running.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- With _wake.
--
-- Returns {"running"}; resuming a running queue changes nothing.
if redis.call('DEL', base .. 'paused') == 1 then
  wake()
end
return {'running'}
