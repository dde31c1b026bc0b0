-- reclaim_dead: reserved -> ready or failed.
--
-- Takes chunks back from workers without a sign of life, and forgets the workers. Uses an attempt:
-- a chunk that kills its worker must end.
--
-- KEYS[1] base        prefix of the queue's keys
-- ARGV[1] now         see _prelude
-- ARGV[2] sweeper     the worker that does it; one at a time
-- ARGV[3] timeout_ms  without a sign of life
-- ARGV[4] limit       chunks at most
-- ARGV[5] lock_ms     how long others leave it to this one
--
-- Returns {"reclaimed", chunks, has_more}, or {"busy"}.
local sweeper, timeout_ms, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

go_on_without_memory()
if not take_sweep('dead', sweeper, ARGV[5]) then
  return {'busy'}
end

local left = limit
local dead = redis.call('ZRANGEBYSCORE', base .. 'workers', '-inf', now - timeout_ms, 'WITHSCORES',
  'LIMIT', 0, 10)
for i = 1, #dead, 2 do
  local worker, last_seen = dead[i], tonumber(dead[i + 1])
  local failure = {type = 'WorkerDied', traceback = '', message = string.format(
    'worker %s gave no sign of life for %.0f ms', worker, now - last_seen)}
  local pending = left > 0 and pending_of(worker, left) or {}
  for _, entry in ipairs(pending) do
    left = left - 1
    local id, index, state = end_reservation(entry[1])
    if id then
      count('chunks_reclaimed', 1)
      use_attempt(id, index, state, failure, nil)
    end
  end
  if left > 0 then
    remove_worker(worker)
  end
end
return {'reclaimed', limit - left, (left == 0 or #dead == 20) and 1 or 0}
