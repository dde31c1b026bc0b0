-- set_retention: running -> running.
--
-- Sets how long ended submissions of the queue that have no retention of their own are kept. Those
-- that have already ended keep theirs: it was counted from their end.
--
-- KEYS[1] base          prefix of the queue's keys
-- ARGV[1] now           see _prelude
-- ARGV[2] retention_ms  '' for the default
--
-- Returns {"set"}.
if ARGV[2] == '' then
  redis.call('DEL', base .. 'retention')
else
  redis.call('SET', base .. 'retention', ARGV[2])
end
return {'set'}
