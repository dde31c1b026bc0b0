-- retire_worker: reserved -> ready.
--
-- Orderly shutdown: all chunks that a worker still holds are released without using an attempt, and
-- it is forgotten. (reclaim_dead handles workers that vanish.) Reservations that are pending for it
-- but no longer in the stream are acknowledged, see _reservation.lua.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] worker
-- ARGV[3] limit   the most chunks; fewer if each costs much
--
-- With _reservation, _suspects, _worker.
--
-- Returns {"retired", ended, has_more, lost}: entries that are no longer pending for it, including
-- lost reservations. has_more is also 0 if nothing could be ended: repeating it would not help.
local worker, limit = ARGV[2], tonumber(ARGV[3])

forget_sleeper(worker)
local pending, is_begun = pending_of(worker, limit), begun_of(worker)
local ended, released = 0, 0
for number, entry in ipairs(pending) do
  if work >= MOST_WORK then
    break
  end
  ended = number
  local id, index, state = end_reservation(entry[1])
  if id then
    if not is_begun or is_begun(entry[1]) then
      mark_again(id, index, state)
    end
    put_back_unbegun(entry[1], id, index, state)
    released = released + 1
  end
end
if released > 0 then
  count('chunks_released', released)
end
write_counts()
if #pending > 0 then
  wake()
end
local rest = (ended < #pending or #pending == limit) and pending_of(worker, 1)[1]
if rest and rest[1] ~= pending[1][1] then
  return {'retired', ended, 1, lost_now}
end
remove_worker(worker)
return {'retired', ended, 0, lost_now}
