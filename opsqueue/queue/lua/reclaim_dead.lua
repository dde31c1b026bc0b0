-- reclaim_dead: reserved -> ready or failed.
--
-- Reclaims chunks of workers that have sent no heartbeat for their own heartbeat timeout, and
-- forgets the workers. Uses an attempt of those whose handlers had begun: a chunk that kills its
-- worker must end. If the worker reported them, it becomes a suspect, see _suspects.lua.
--
-- KEYS[1] base     prefix of the queue's keys
-- ARGV[1] now      see _prelude
-- ARGV[2] sweeper  the worker that sweeps; one at a time
-- ARGV[3] limit    the most chunks; fewer if each costs much
-- ARGV[4] lock_ms  time for which others are locked out
--
-- With _attempt, _reservation, _worker.
--
-- Returns {"reclaimed", chunks, has_more, lost, workers}, or {"busy"}: lost is the number of
-- reservations that were pending but no longer in the stream, see _reservation.lua. has_more is 1
-- only if something changed. workers are those whose chunks were reclaimed.
local sweeper, limit = ARGV[2], tonumber(ARGV[3])

go_on_without_memory()
if not take_sweep('dead', sweeper, ARGV[4]) then
  return {'busy'}
end

local left, reclaimed, removed, holders, is_any_free = limit, 0, 0, {}, false
local dead = redis.call('ZRANGEBYSCORE', base .. 'dead_at', '-inf', now, 'LIMIT', 0, 10)
for _, worker in ipairs(dead) do
  forget_sleeper(worker)
  local last_seen = tonumber(redis.call('ZSCORE', base .. 'workers', worker) or now)
  local failure = {type = 'WorkerDied', traceback = '', message = string.format(
    'worker %s sent no heartbeat for %.0f ms', worker, now - last_seen)}
  local pending = left > 0 and pending_of(worker, left) or {}
  local is_begun, reclaimed_before = begun_of(worker), reclaimed
  for _, entry in ipairs(pending) do
    if work >= MOST_WORK then
      left = 0
      break
    end
    left = left - 1
    local id, index, state = end_reservation(entry[1])
    if id then
      reclaimed = reclaimed + 1
      if is_begun and not is_begun(entry[1]) then
        mark_again(id, index, state)
        is_any_free = put_back_unbegun(entry[1], id, index, state) or is_any_free
      else
        use_attempt(id, index, state, failure, nil, false, is_begun ~= nil)
      end
    end
  end
  if reclaimed > reclaimed_before then
    holders[#holders + 1] = worker
  end
  if left > 0 then
    removed = removed + remove_worker(worker)
  end
end
if reclaimed > 0 then
  count('chunks_reclaimed', reclaimed)
end
write_counts()
-- An older version leaves what a worker reported when it removes the worker.
for _, worker in ipairs(redis.call('HRANDFIELD', base .. 'begun', 2) or {}) do
  if not redis.call('ZSCORE', base .. 'dead_at', worker) then
    redis.call('HDEL', base .. 'begun', worker)
  end
end
if is_any_free then
  wake()
end
local has_more = (left == 0 or #dead == 10) and reclaimed + lost_now + removed > 0
return {'reclaimed', reclaimed, has_more and 1 or 0, lost_now, holders}
