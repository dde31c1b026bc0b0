-- heartbeat: reserved -> ready.
--
-- The worker is alive and reports what it holds. Returns which of these tokens are revoked (the
-- submission ended, or the reservation is lost), so that it can stop early. Chunks that are pending
-- for it without its knowledge were reserved by a call whose answer was lost. They are released
-- once they are older than any answer that can still arrive.
--
-- A worker may hold thousands of chunks, so that a heartbeat has pages. Each covers a range of
-- entries, and together they cover all, so that what the worker does not know is found as well. The
-- first page alone is the sign of life.
--
-- KEYS[1]    base        prefix of the queue's keys
-- ARGV[1]    now         see _prelude
-- ARGV[2]    worker
-- ARGV[3]    info        JSON that it reports about itself
-- ARGV[4]    unknown_ms  age from which an unknown reservation is released
-- ARGV[5]    timeout_ms  without a heartbeat for this time it is dead
-- ARGV[6]    begun       entries of those whose handlers have begun, see `begun`; '-': not reported
-- ARGV[7]    from        start of the page: '-', or '(' and the last entry of the page before
-- ARGV[8]    to          the last entry of the page, or '+'
-- ARGV[9]    limit       the most pending entries to examine; fewer if many of them are released
-- ARGV[10]   group       in which it sleeps if nothing is free, see _wake.lua; '': it doesn't
-- ARGV[11...] rest       tokens of this page that it holds
--
-- With _alive, _entries, _partitions, _reservation, _suspects, _wake, _worker.
--
-- Returns {"alive", read_to, revoked, released, lost, is_free, workers, partitions, is_due,
-- due_in}. read_to is the last entry that was examined, '' if all of the page were. revoked are
-- tokens; those of later entries mean nothing. lost is the number of reservations that were pending
-- for it but no longer in the stream, see _reservation.lua. The first page's answer alone has the
-- rest: is_free is 1 if there may be something to reserve, is_due is 1 if a sweep is overdue,
-- partitions are those of _partitions.lua, and due_in see _alive.lua.
local worker, info, unknown_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
local from, to, limit = ARGV[7], ARGV[8], tonumber(ARGV[9])
local OVERDUE_MS = 5000  -- so much later than a sweeper comes, if there is one

local function is_past(set, instant)
  local first = redis.call('ZRANGE', base .. set, 0, 0, 'WITHSCORES')[2]
  return first ~= nil and tonumber(first) <= instant
end

-- Return whether there may be something to reserve. Suspects are in `delayed`, too.
local function is_free()
  return redis.call('EXISTS', base .. 'paused') == 0
    and (redis.call('EXISTS', base .. 'ready', base .. 'signatures', base .. 'suspects') > 0
      or is_past('delayed', now))
end

local function is_due()
  if redis.call('EXISTS', base .. 'repair', base .. 'garbage', base .. 'spent_inputs') > 0
    or is_past('dead_at', now - OVERDUE_MS) or is_past('expiring', now) then
    return true
  end
  local oldest = redis.call('XRANGE', base .. 'reservations', '-', '+', 'COUNT', 1)[1]
  return oldest and (not is_reservation(oldest) or tonumber(oldest[2][10]) <= now - OVERDUE_MS)
end

go_on_without_memory()
if from == '-' then
  note_sign_of_life(worker, tonumber(ARGV[5]))
  redis.call('HSET', base .. 'worker_info', worker, info)
  if ARGV[6] ~= '-' then
    redis.call('HSET', base .. 'begun', worker, ARGV[6])
  end
end

local is_known = {}
for i = 11, #ARGV do
  is_known[ARGV[i]] = true
end

local ids = {}
for number, pending in ipairs(pending_of(worker, limit, from, to)) do
  ids[number] = pending[1]
end
local entries = read_entries(ids, ids[1], ids[#ids])
local read_to = #ids == limit and ids[#ids] or ''
local states, is_held, released = {}, {}, 0
for number, entry_id in ipairs(ids) do
  if work >= MOST_WORK then
    read_to = ids[number - 1]
    break
  end
  local entry = entries[entry_id]
  if entry and is_reservation(entry) then
    local token, id, reserved_at = token_of(entry), entry[2][2], tonumber(entry[2][8])
    if is_known[entry_id] then
      -- Returned by a version whose tokens did not include the chunk.
      token = entry_id
    end
    if is_known[token] then
      if states[id] == nil then
        states[id] = redis.call('HGET', sub_key(id), 'state')
      end
      is_held[token] = states[id] == 'in_progress'
    elseif now - reserved_at >= unknown_ms then
      local _, index, state = end_reservation(token)
      put_back_unbegun(entry_id, id, index, state)
      released, work = released + 1, work + 3
    end
  else
    end_reservation(entry_id)
  end
end
write_counts()
if released > 0 then
  count('chunks_released', released)
  wake()
end

local revoked = {}
for i = 11, #ARGV do
  if not is_held[ARGV[i]] then
    revoked[#revoked + 1] = ARGV[i]
  end
end
if from ~= '-' then
  return {'alive', read_to, revoked, released, lost_now}
end
local has_chunks = is_free()
if not has_chunks and ARGV[10] ~= '' then
  fall_asleep(ARGV[10], worker, -1)  -- a message may have been sent to it in vain
end
return {'alive', read_to, revoked, released, lost_now, has_chunks and 1 or 0,
  redis.call('ZCARD', base .. 'workers'), partition_numbers(), is_due() and 1 or 0, due_in}
