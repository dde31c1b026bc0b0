-- Defaults: options of submissions whose inserts do not give them.
--
-- Lists of them have this order: max_attempts, backoff_first_ms, backoff_max_ms, retention_ms.

-- The queue's own, false where it has none. The retention has a key of its own, which earlier
-- versions know.
local function queue_defaults()
  local found = redis.call('HMGET', base .. 'defaults', 'max_attempts', 'backoff_first_ms',
    'backoff_max_ms')
  found[4] = redis.call('GET', base .. 'retention')
  return found
end

-- Options of one place, and those of the next where they are not set. Of two back-offs that don't
-- fit each other the one of the first place stays, and the other one becomes the same.
local function over(first, second)
  local found = {}
  for i = 1, 4 do
    found[i] = first[i] or second[i]
  end
  if tonumber(found[2]) > tonumber(found[3]) then
    local stays = first[2] or found[3]
    found[2], found[3] = stays, stays
  end
  return found
end

-- Options of a submission that is inserted now: its own, '' where the insert does not say, then the
-- queue's, then `fallback`, which has all.
local function options_of(own, fallback)
  local first = {}
  for i = 1, 4 do
    first[i] = own[i] ~= '' and own[i]
  end
  return over(first, over(queue_defaults(), fallback))
end
