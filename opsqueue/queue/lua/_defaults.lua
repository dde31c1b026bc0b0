-- Defaults: options of submissions whose inserts don't set them.
--
-- Lists of options have this order: max_attempts, backoff_first_ms, backoff_max_ms, retention_ms.

-- The queue's own defaults, false if not set. The retention has its own key, which earlier versions
-- read, too.
local function queue_defaults()
  local found = redis.call('HMGET', base .. 'defaults', 'max_attempts', 'backoff_first_ms',
    'backoff_max_ms')
  found[4] = redis.call('GET', base .. 'retention')
  return found
end

-- Merge two lists of options; `first` takes precedence. If two back-offs don't fit each other, the
-- one from `first` is kept and the other becomes the same.
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

-- Options of a submission that is inserted now: its own ('' if the insert does not set one), then
-- the queue's, then `fallback`, which has all of them.
local function options_of(own, fallback)
  local first = {}
  for i = 1, 4 do
    first[i] = own[i] ~= '' and own[i]
  end
  return over(first, over(queue_defaults(), fallback))
end
