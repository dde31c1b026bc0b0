-- Suspects: chunks whose handlers ran when their whole worker died. One of them may have killed it,
-- so each waits for a worker that holds nothing else.
--
-- A suspect that waits is in `delayed`, too, some minutes ahead. Scripts of older versions, which
-- don't know of suspects, then neither lose nor duplicate it, and free it at last.
--
-- With _index, _wake.

-- Make a chunk that is in no other place wait for a worker that holds nothing, from an instant on.
local function isolate(id, index, from)
  local member = id .. ':' .. index
  redis.call('ZADD', base .. 'delayed', now + POSTPONED_MS, member)
  redis.call('ZADD', base .. 'suspects', from, member)
  if redis.call('EXISTS', base .. 'isolating') == 0 then
    redis.call('SET', base .. 'isolating', 'suspect')
  end
  wake()
end

local hosted  -- the entries of suspects in hand; read once
local function is_hosted(entry_id)
  if not hosted then
    hosted = {}
    for _, of_suspect in ipairs(redis.call('HVALS', base .. 'hosts')) do
      hosted[of_suspect] = true
    end
  end
  return hosted[entry_id]
end

-- Release a chunk that has not begun; `entry_id` is that of the reservation that has just ended. A
-- suspect remains one. Returns whether the chunk can be reserved now.
local function put_back_unbegun(entry_id, id, index, state)
  if state == 'in_progress' and is_hosted(entry_id) then
    isolate(id, index, now)
    return false
  end
  return put_back(id, index, state)
end
