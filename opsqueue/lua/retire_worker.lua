-- retire_worker: reserved -> ready.
--
-- A worker goes in peace: what it still holds is released without using an attempt, and it is
-- forgotten. (What a worker that just vanishes holds is for reclaim_dead.)
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] worker
-- ARGV[3] limit   chunks at most
--
-- Returns {"retired", released, has_more}.
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
if #pending == limit then
  return {'retired', #pending, 1}
end
remove_worker(worker)
return {'retired', #pending, 0}
