-- upgrade_queue: running -> running.
--
-- Raises the queue's format to the newest that this version knows: programs that can't read it
-- refuse the queue from then on, see the prelude.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"upgraded", format_before, format}; both the same where nothing was to be done.
if format < FORMAT then
  redis.call('SET', base .. 'format', FORMAT)
end
return {'upgraded', format, FORMAT}
