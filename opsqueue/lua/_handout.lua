-- Handout: the loader puts this text in front of scripts that say "With _handout.".
--
-- What is read before chunks are handed out.

local next_due  -- the instant of the next delayed chunk
local function read_next_due()
  next_due = tonumber(redis.call('ZRANGE', base .. 'delayed', 0, 0, 'WITHSCORES')[2])
end

-- Move chunks whose back-off is over into redo. Bounded; what is left is due at the next call.
local function free_due_chunks()
  read_next_due()
  if not next_due or next_due > now then
    return
  end
  local due = redis.call('ZRANGEBYSCORE', base .. 'delayed', '-inf', now, 'LIMIT', 0, 100)
  for _, member in ipairs(due) do
    local id, index = string.match(member, '^(%d+):(%d+)$')
    redis.call('ZREM', base .. 'delayed', member)
    put_back(id, index, redis.call('HGET', sub_key(id), 'state'))
  end
  read_next_due()
end

-- What the answer has of a submission; what is asked about it here alone comes behind.
local FIELDS = {'chunks_total', 'chunk_size', 'operations_total', 'inline', 'prefix', 'codec',
  'max_attempts', 'metadata', 'trace_context'}
local function read_submission(id)
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'cursor', 'chunks_in_hand', 'signature', unpack(FIELDS))
  local fields = {}
  for i, name in ipairs(FIELDS) do
    if row[i + 3] then
      fields[#fields + 1] = name
      fields[#fields + 1] = row[i + 3]
    end
  end
  return {
    key = key, fields = fields, cursor = tonumber(row[1]), in_hand = tonumber(row[2]),
    pairs = row[3] and redis.call('HGETALL', key .. ':meta') or {}, total = tonumber(row[4]),
    size = tonumber(row[5]), operations = tonumber(row[6]), inputs = row[7] and {},
    redo = redis.call('ZCARD', key .. ':redo'), taken = 0,
  }
end

