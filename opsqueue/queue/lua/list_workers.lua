-- list_workers: reading.
--
-- Only their names, which get_workers takes: a queue may have ten thousand workers.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] limit  the most workers, the last seen first
--
-- Returns {"listed", workers}.
return {'listed', redis.call('ZREVRANGE', base .. 'workers', 0, tonumber(ARGV[2]) - 1)}
