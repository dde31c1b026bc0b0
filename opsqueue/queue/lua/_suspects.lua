-- Suspects: chunks whose handlers ran when their whole worker died. One of them may have killed it,
-- so each waits for a worker that holds nothing else.
--
-- A suspect that waits is in `delayed`, too, some minutes ahead. Scripts of older versions, which
-- don't know of suspects, then neither lose nor duplicate it, and free it at last.
local POSTPONED_MS = 300000

-- Make a chunk that is in no other place wait for a worker that holds nothing.
local function isolate(id, index)
  local member = id .. ':' .. index
  redis.call('ZADD', base .. 'delayed', now + POSTPONED_MS, member)
  redis.call('ZADD', base .. 'suspects', now, member)
  if redis.call('EXISTS', base .. 'isolating') == 0 then
    redis.call('SET', base .. 'isolating', 'suspect')
  end
  wake()
end
