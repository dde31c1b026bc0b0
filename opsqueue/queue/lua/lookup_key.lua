-- lookup_key: reading.
--
-- KEYS[1] base         prefix of the queue's keys
-- ARGV[1] now          see _prelude
-- ARGV[2] idempotency  key of an insert
--
-- Returns {"found", id}, or {"unknown"}: no insert had it, or it is forgotten.
local id = redis.call('GET', base .. 'idem:' .. ARGV[2])
return id and {'found', id} or {'unknown'}
