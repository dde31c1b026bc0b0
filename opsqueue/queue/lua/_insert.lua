-- Insert: the common parts of inserting and restoring a submission.
--
-- With _defaults, _end_submission, _pairs, _stream, _wake.

local function next_id(partition)
  -- Ids ascend even if the clock steps back or an instant has more than 10,000 of them. They are
  -- text, since a Lua number only holds 53 bits.
  local ms, sequence = now, 0
  local last = redis.call('GET', base .. 'last_id')
  if last then
    local last_ms = tonumber(string.sub(last, 1, 13))
    if ms <= last_ms then
      ms, sequence = last_ms, tonumber(string.sub(last, 14, 17)) + 1
      if sequence > 9999 then
        ms, sequence = ms + 1, 0
      end
    end
  end
  local stamp = string.format('%013.0f%04d', ms, sequence)
  redis.call('SET', base .. 'last_id', stamp)
  return stamp .. partition
end

-- Store a submission without finished chunks. `new` has prefix, chunks_total, chunk_size,
-- operations_total and cursor; the options that `options_of` returns; and, flat, its pairs of
-- strategic metadata, and other fields of its hash.
local function add_submission(id, new)
  local key = sub_key(id)
  redis.call('HSET', key, 'state', 'in_progress', 'prefix', new.prefix,
    'chunks_total', new.chunks_total, 'chunk_size', new.chunk_size,
    'operations_total', new.operations_total, 'cursor', new.cursor, 'chunks_done', 0,
    'operations_done', 0, 'operations_failed', 0, 'chunks_in_hand', 0, 'created_at', now,
    'max_attempts', new.options[1], 'backoff_first_ms', new.options[2],
    'backoff_max_ms', new.options[3], 'retention_ms', new.options[4], unpack(new.fields))
  if #new.pairs > 0 then
    redis.call('HSET', key .. ':meta', unpack(new.pairs))
    sign(id)
    change_pairs(id, 'ZADD')
  end
  redis.call('HSET', base .. 'prefixes', new.prefix, id)
  redis.call('ZADD', base .. 'submissions:in_progress', 0, id)
  count('submissions_inserted', 1)
  count('chunks_inserted', new.chunks_total)
  count('operations_inserted', new.operations_total)
  event(id, 'created')
end

-- Make its chunks available.
local function offer(id)
  if redis.call('EXISTS', base .. 'reservations') == 0 then
    reset_reservations()
  end
  enter_ready(id)
  wake()
end
