-- Limit: which values a strategy's filters let through, and what a rate limit's bucket holds.
--
-- With _handout, _in_hand.
local TICKS_A_MS = 100000
local EPOCH_MS = 1735689600000  -- keeps ticks of 10 ns below 2^53

-- The instant at which a bucket has a token again, and whether a limit of chunks in hand held work
-- back.
local next_allowed, is_blocked = nil, false

-- Its functions are made when it is called, see _strategy.lua.
local function make_limits()
  local now_ticks = (now - EPOCH_MS) * TICKS_A_MS

  -- Filters. Each answers whether a submission with this value of its key may be worked on.

  local known_limits
  local function limit_of(kind, key, value)
    if known_limits == nil then
      -- Mostly there are none, which is asked once a script.
      known_limits = redis.call('EXISTS', base .. 'limits') == 1 and {}
    end
    if not known_limits then
      return false
    end
    local own, all = kind .. ':' .. key .. ':' .. value, kind .. ':' .. key
    if known_limits[own] == nil then
      local set = redis.call('HMGET', base .. 'limits', own, all)
      known_limits[own] = set[1] or set[2]
    end
    return known_limits[own]
  end

  local function bucket_of(layer, value)
    local interval, burst = tonumber(layer[3]), tonumber(layer[4])
    local own = limit_of('rate', layer[2], value)
    if own then
      interval, burst = string.match(own, '^(%d+),(%d+)$')
    end
    return tonumber(interval), tonumber(burst)
  end

  -- When buckets are full again, as they will be written down: what this script takes is written
  -- before the index of them is read, and at the end.
  local full_ats, unpaced = {}, {}
  local function full_at_of(key, value)
    local known = table_in(full_ats, key)
    known[value] = known[value]
      or tonumber(redis.call('HGET', base .. 'full_at:' .. key, value) or 0)
    return known[value]
  end

  local function write_paces(key)
    for value in pairs(unpaced[key] or {}) do
      local text = string.format('%.0f', full_ats[key][value])
      redis.call('HSET', base .. 'full_at:' .. key, value, text)
      redis.call('ZADD', base .. 'paced:' .. key, 'XX', text, value)
    end
    unpaced[key] = nil
  end

  local function write_all_paces()
    for key in pairs(unpaced) do
      write_paces(key)
    end
  end

  -- The values whose buckets are fullest.
  local function soonest_of(key, limit)
    write_paces(key)
    return redis.call('ZRANGE', base .. 'paced:' .. key, 0, limit - 1)
  end

  local function passes(layer, value)
    if layer[1] == 'select_only' then
      return value == layer[3]
    elseif not value then
      return true  -- no value, no limit
    elseif layer[1] == 'max' then
      local most = tonumber(limit_of('max', layer[2], value) or layer[3])
      if in_hand_of(layer[2], value) < most then
        return true
      end
      is_blocked = true
      return false
    end
    -- A bucket is kept as the tick at which it is full again. It has a token when taking one leaves
    -- it full no later than `burst` tokens from now.
    local interval, burst = bucket_of(layer, value)
    local wait_ticks = full_at_of(layer[2], value) + interval - now_ticks - burst * interval
    if wait_ticks <= 0 then
      return true
    end
    local at = now + math.ceil(wait_ticks / TICKS_A_MS)
    if not next_allowed or at < next_allowed then
      next_allowed = at
    end
    return false
  end

  local function value_of(id, key)
    local of_id = known_pairs[id]
    if not of_id then
      of_id = redis.call('HGETALL', sub_key(id) .. ':meta')
      known_pairs[id] = of_id
    end
    for i = 1, #of_id, 2 do
      if of_id[i] == key then
        return of_id[i + 1]
      end
    end
    return false
  end

  -- Take tokens for a chunk that is handed out; one with more operations than are left borrows.
  local function take_tokens(layers, id, operations)
    for _, layer in ipairs(layers) do
      local key = layer[2]
      local value = layer[1] == 'rate' and value_of(id, key)
      if value then
        local interval = bucket_of(layer, value)
        local tokens = layer[5] == 'operations' and operations or 1
        local full_at = math.max(full_at_of(key, value), now_ticks) + tokens * interval
        full_ats[key][value] = full_at
        table_in(unpaced, key)[value] = true
      end
    end
  end

  return {soonest_of = soonest_of, passes = passes, value_of = value_of, take_tokens = take_tokens,
    write_all_paces = write_all_paces}
end
