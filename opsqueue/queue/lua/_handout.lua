-- Handout: reading submissions before chunks are reserved, and delivering the chunks.
--
-- With _index, _stream.
local asked, taken = 0, 0  -- chunks requested by this call; chunks taken so far
-- Strategic metadata by submission, flat, as far as a strategy has read it. It does not change
-- while chunks are reserved.
local known_pairs = {}
-- The keys that the strategy asks for: each pick must know how many chunks their values have.
local watched_keys = {}

-- Return the instant of the next delayed chunk; nil if there is none. Suspects wait for a worker,
-- and not for an instant. Where they may be among the chunks, only the first ones are examined.
local function next_delayed(has_suspects)
  local EXAMINED = has_suspects and 20 or 1
  local rows = redis.call('ZRANGE', base .. 'delayed', 0, EXAMINED - 1, 'WITHSCORES')
  for i = 1, has_suspects and #rows or 0, 2 do
    if not redis.call('ZSCORE', base .. 'suspects', rows[i]) then
      return tonumber(rows[i + 1])
    end
  end
  return #rows == 2 * EXAMINED and tonumber(rows[#rows]) or nil
end

-- Move chunks whose back-off is over into redo, and return the instant of the next one, nil if
-- there is none. Suspects, which are only looked for if `has_suspects`, wait on as long as there is
-- a worker that may host them. Bounded; the rest is due at the next call.
local function free_due_chunks(has_suspects)
  local delayed = base .. 'delayed'
  local first = tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2])
  if not first or first > now then
    if not has_suspects then
      return first
    end
    return next_delayed(true)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 100)) do
    if work >= MOST_WORK / 2 then
      break
    end
    local id, index = string.match(member, '^(%d+):(%d+)$')
    local state = redis.call('HGET', sub_key(id), 'state')
    local is_suspect = has_suspects and redis.call('ZSCORE', base .. 'suspects', member)
    if is_suspect and state == 'in_progress' and redis.call('EXISTS', base .. 'begun') == 1 then
      redis.call('ZADD', delayed, now + POSTPONED_MS, member)
    else
      redis.call('ZREM', delayed, member)
      if is_suspect then
        redis.call('ZREM', base .. 'suspects', member)
      end
      put_back(id, index, state)
    end
  end
  return next_delayed(has_suspects)
end

-- The first nine fields go into the answer; the others are only used here.
local function read_submission(id)
  local key = sub_key(id)
  local row = redis.call('HMGET', key, 'chunks_total', 'chunk_size', 'operations_total', 'inline',
    'prefix', 'codec', 'max_attempts', 'metadata', 'trace_context', 'cursor', 'chunks_in_hand',
    'signature', 'again_below')
  local pairs_flat = row[12] and (known_pairs[id] or redis.call('HGETALL', key .. ':meta')) or {}
  work = work + (#pairs_flat > 0 and 10 + 2.5 * #pairs_flat or 0)
  local watched, others = {}, {}
  for i = 1, #pairs_flat, 2 do
    local list = watched_keys[pairs_flat[i]] and watched or others
    list[#list + 1], list[#list + 2] = pairs_flat[i], pairs_flat[i + 1]
  end
  return {
    key = key, row = row, cursor = tonumber(row[10]), in_hand = tonumber(row[11]),
    pairs = pairs_flat, watched = watched, others = others,
    total = tonumber(row[1]), size = tonumber(row[2]), operations = tonumber(row[3]),
    inputs = row[4] and {}, again_below = tonumber(row[13] or 0),
    redo = redis.call('ZCARD', key .. ':redo'), taken = 0,
    -- The size of data that its chunks share: metadata, trace, keys of strategic metadata.
    shared_bytes = #(row[8] or '') + #(row[9] or '') + #(row[12] or ''),
  }
end

-- Deliver chunks, {id, index, attempt} each, to a worker; return their entries.
local function deliver(worker, chunks, expires_at)
  local reservations, first = base .. 'reservations', nil
  local function add_and_read()
    first = nil
    for _, c in ipairs(chunks) do
      local added = redis.call('XADD', reservations, '*', 's', c[1], 'i', c[2], 'a', c[3],
        't', now, 'e', expires_at)
      first = first or added
    end
    return redis.pcall('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', #chunks,
      'STREAMS', reservations, '>')
  end
  local delivered = add_and_read()
  if is_nogroup(delivered) then
    reset_reservations(#chunks)
    delivered = add_and_read()
  end
  local rows = delivered and delivered[1] and delivered[1][2]
  if not rows or rows[1][1] ~= first then
    -- An operator moved the group (XGROUP SETID) or added an entry, so that other entries or none
    -- were delivered. This worker's heartbeat releases those. The group is moved to its correct
    -- position.
    local ms, sequence = string.match(first, '^(%d+)%-(%d+)$')
    redis.call('XGROUP', 'SETID', reservations, 'workers', sequence ~= '0'
      and string.format('%s-%.0f', ms, sequence - 1)
      or string.format('%.0f-18446744073709551615', ms - 1))
    rows = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', #chunks,
      'STREAMS', reservations, '>')[1][2]
  end
  return rows
end
