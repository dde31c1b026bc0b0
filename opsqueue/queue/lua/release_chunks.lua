-- release_chunks: reserved -> ready or delayed.
--
-- Releases chunks that were not worked on, without using an attempt: at shutdown, or, with a delay,
-- after a fault outside the handler (such as in the store).
--
-- KEYS[1]    base      prefix of the queue's keys
-- ARGV[1]    now       see _prelude
-- ARGV[2]    delay_ms  0: free at once
-- ARGV[3]    reason    stored with the submission, to be shown; '' for none
-- ARGV[4...] rest      tokens
--
-- With _reservation, _suspects.
--
-- Returns for each {"released", id}, {"lost"}, or {"dropped", id}; for the first ones only, if they
-- cost so much that the others are left to another call.
local delay_ms, reason = tonumber(ARGV[2]), ARGV[3]
local released, has_reason = 0, {}

local function release(token)
  local id, index, state = end_reservation(token)
  if not id then
    return {'lost'}
  end
  if state ~= 'in_progress' then
    put_back(id, index, state)
    return {'dropped', id}
  end
  local entry_id = string.match(token, '^%d+%-%d+')
  if delay_ms == 0 then
    put_back_unbegun(entry_id, id, index, state)
  else
    -- The fault may have struck when its output was stored: the answer was lost, not the output.
    mark_again(id, index, state)
    if is_hosted(entry_id) then
      isolate(id, index, now + delay_ms)
    else
      redis.call('ZADD', base .. 'delayed', now + delay_ms, id .. ':' .. index)
    end
  end
  if reason ~= '' and not has_reason[id] then
    has_reason[id] = true
    redis.call('HSET', sub_key(id), 'release_reason', reason, 'released_at', now)
  end
  released = released + 1
  return {'released', id}
end

local answers = {}
for i = 4, #ARGV do
  if work >= MOST_WORK then
    break
  end
  answers[#answers + 1] = release(ARGV[i])
end
write_counts()
if released > 0 then
  count('chunks_released', released)
  wake()
end
return answers
