-- note_begun: reserved -> reserved.
--
-- Reports which chunks' handlers a worker has begun; it replaces what the worker reported before.
-- Only these use an attempt if the worker dies.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] worker
-- ARGV[3] begun   entries, see `begun` in _prelude
--
-- Returns {"noted"}; or {"unknown"}: the worker counts as dead, and nothing is changed.
-- A worker must go on without memory, since only that frees some.
go_on_without_memory()
if not redis.call('ZSCORE', base .. 'workers', ARGV[2]) then
  return {'unknown'}
end
redis.call('HSET', base .. 'begun', ARGV[2], ARGV[3])
return {'noted'}
