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
-- Returns for each {"released", id}, {"lost"}, or {"dropped", id}.
local delay_ms, reason = tonumber(ARGV[2]), ARGV[3]

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
  if reason ~= '' then
    redis.call('HSET', sub_key(id), 'release_reason', reason, 'released_at', now)
  end
  count('chunks_released', 1)
  return {'released', id}
end

local answers, has_released = {}, false
for i = 4, #ARGV do
  local answer = release(ARGV[i])
  has_released = has_released or answer[1] == 'released'
  answers[#answers + 1] = answer
end
if has_released then
  wake()
end
return answers
