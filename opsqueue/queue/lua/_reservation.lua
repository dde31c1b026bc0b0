-- Reservation: the ways in which a reservation ends.
--
-- With _entry, _in_hand, _lost, _wake.

-- Acknowledge entries that are missing in the stream (it was trimmed, or the server lost its last
-- writes), so that they are not met again. A repair finds out which chunks they were for.
local function acknowledge_lost(entry_ids)
  local lost = redis.call('XACK', base .. 'reservations', 'workers', unpack(entry_ids))
  if lost > 0 then
    if lost_now == 0 then
      begin_repair()
    end
    note_lost(lost)
  end
end

-- Mark a chunk that was in hand and has used no attempt: its next reservation is `again`. A retry
-- of an ended submission marks all of its chunks.
local function mark_again(id, index, state)
  if state == 'in_progress' then
    redis.call('HSETNX', sub_key(id) .. ':attempts', index, 0)
  end
end

-- Remove an entry that is not pending (an operator acknowledged it, or deleted consumer or group).
-- No worker knows of it any more, and nobody else can have its chunk while it exists. `f` is its
-- fields. Returns whether a submission has the chunk again. The script ends with write_counts.
local function free_unheld(entry_id, f)
  redis.call('XDEL', base .. 'reservations', entry_id)
  local id, index = f[2], tonumber(f[4])
  local state = redis.call('HGET', sub_key(id), 'state')
  note_lost(1)
  if state then
    count_in_hand(id, -1)
    mark_again(id, index, state)
    if put_back(id, index, state) then
      wake()
    end
  end
  return state ~= false
end

-- End a reservation. Only acknowledging its entry ends it, so the script that acknowledges decides
-- the outcome, and every later one gets `lost`. Returns id, index and state of the submission
-- (false if it is forgotten); nothing if the token is no longer pending. If an entry's id is
-- passed, it is not pending afterwards, whatever it is. The script ends with write_counts.
local function end_reservation(token)
  work = work + 5
  local reservations = base .. 'reservations'
  local entry, entry_id, is_there = entry_of(token)
  if entry then
    if redis.call('XACK', reservations, 'workers', entry_id) == 0 then
      free_unheld(entry_id, entry[2])
      return nil
    end
    redis.call('XDEL', reservations, entry_id)
    local id, index = entry[2][2], tonumber(entry[2][4])
    local state = redis.call('HGET', sub_key(id), 'state')
    if state then
      count_in_hand(id, -1)
    end
    return id, index, state
  elseif entry_id and not is_there then
    acknowledge_lost({entry_id})
  elseif entry_id == token then
    -- It is not a reservation: nobody can report it.
    redis.call('XACK', reservations, 'workers', entry_id)
    redis.call('XDEL', reservations, entry_id)
  end
  return nil
end
