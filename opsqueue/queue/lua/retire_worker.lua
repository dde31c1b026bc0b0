-- retire_worker: reserved -> ready.
--
-- Orderly shutdown: what a worker still holds is released without using an attempt, and it is
-- forgotten. (What a worker that just vanishes holds is for reclaim_dead.) What is pending for it
-- but no longer in the stream is acknowledged, see _reservation.lua.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] worker
-- ARGV[3] limit   chunks at most
--
-- With _reservation, _worker.
--
-- Returns {"retired", ended, has_more, lost}: entries that are not pending for it any more, lost
-- reservations among them. has_more 0 too when nothing could be ended: to repeat that is no use.
local worker, limit = ARGV[2], tonumber(ARGV[3])

local pending = pending_of(worker, limit)
for _, entry in ipairs(pending) do
  local id, index, state = end_reservation(entry[1])
  if id then
    put_back(id, index, state)
    count('chunks_released', 1)
  end
end
if #pending > 0 then
  wake()
end
local rest = #pending == limit and pending_of(worker, 1)[1]
if rest and rest[1] ~= pending[1][1] then
  return {'retired', #pending, 1, lost_now}
end
remove_worker(worker)
return {'retired', #pending, 0, lost_now}
