-- heartbeat: reserved -> ready.
--
-- The worker is alive and says what it holds. Answers which of that is void (the submission ended,
-- or the reservation is lost), so that it can stop early. Chunks that are pending for it and that
-- it does not know were reserved by a call whose answer was lost on the way: they are released,
-- once they are older than any answer that can still be under way.
--
-- KEYS[1]    base        prefix of the queue's keys
-- ARGV[1]    now         see _prelude
-- ARGV[2]    worker
-- ARGV[3]    info        JSON that it tells of itself
-- ARGV[4]    unknown_ms  age from which an unknown reservation is released
-- ARGV[5]    timeout_ms  without a sign of life for so long it is dead
-- ARGV[6...] rest        tokens that it holds
--
-- With _alive, _reservation, _worker.
--
-- Returns {"alive", void_tokens, released, lost}: lost are reservations that were pending for it
-- but no longer in the stream, see _reservation.lua.
local worker, info, unknown_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])

go_on_without_memory()
note_sign_of_life(worker, tonumber(ARGV[5]))
redis.call('HSET', base .. 'worker_info', worker, info)

local is_known = {}
for i = 6, #ARGV do
  is_known[ARGV[i]] = true
end

local states, is_held, released = {}, {}, 0
for _, pending in ipairs(pending_of(worker, 10000)) do
  local entry = entry_of(pending[1])
  if entry then
    local token, id, reserved_at = token_of(entry), entry[2][2], tonumber(entry[2][8])
    if is_known[pending[1]] then
      -- Given by a version whose tokens did not say what they are for.
      token = pending[1]
    end
    if is_known[token] then
      if states[id] == nil then
        states[id] = redis.call('HGET', sub_key(id), 'state')
      end
      is_held[token] = states[id] == 'in_progress'
    elseif now - reserved_at >= unknown_ms then
      local _, index, state = end_reservation(token)
      put_back(id, index, state)
      count('chunks_released', 1)
      released = released + 1
    end
  else
    end_reservation(pending[1])
  end
end
if released > 0 then
  wake()
end

local void = {}
for i = 6, #ARGV do
  if not is_held[ARGV[i]] then
    void[#void + 1] = ARGV[i]
  end
end
return {'alive', void, released, lost_now}
