-- upgrade_queue: running -> running.
--
-- Raises the queue's format to the newest that this version knows: programs that can't read it
-- refuse the queue from then on, see the prelude.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
--
-- Returns {"upgraded", format_before, format}; the same number twice if nothing changed.
if format < FORMAT then
  redis.call('SET', base .. 'format', FORMAT)
end
return {'upgraded', format, FORMAT}
