-- Index: the loader puts this text behind the prelude, in front of every script.
--
-- What a submission that is ready, or has chunks in hand, or has strategic metadata, is found by.

local NINES_COMPLEMENT = {
  ['0'] = '9', ['1'] = '8', ['2'] = '7', ['3'] = '6', ['4'] = '5',
  ['5'] = '4', ['6'] = '3', ['7'] = '2', ['8'] = '1', ['9'] = '0',
}
local function complement(digits)
  return (string.gsub(digits, '%d', NINES_COMPLEMENT))
end

-- A 64-bit integer as 20 characters in the order of the numbers: a sign, then its digits, nines'
-- complement where it is negative. A score would hold only 53 bits.
local function sortable(value)
  local minus, digits = string.match(value, '^(-?)(%d+)$')
  local padded = string.rep('0', 19 - #digits) .. digits
  if minus == '' then
    return '1' .. padded
  end
  return '0' .. complement(padded)
end

-- Put a group (the ready submissions with one value of a key) into its places in the indexes of its
-- key, given its first and last submission of before; see _strategy.lua for what they hold.
local function place_group(key, value, first_before, last_before)
  local members = base .. 'meta:' .. key .. ':' .. value
  local first = redis.call('ZRANGE', members, 0, 0)[1]
  local last = redis.call('ZRANGE', members, -1, -1)[1]
  if first_before and first_before ~= first then
    redis.call('ZREM', base .. 'oldest:' .. key, first_before .. ':' .. value)
  end
  if last_before and last_before ~= last then
    redis.call('ZREM', base .. 'newest:' .. key, last_before .. ':' .. value)
  end
  if first then
    local in_hand = redis.call('HGET', base .. 'inhand:' .. key, value) or 0
    redis.call('ZADD', base .. 'oldest:' .. key, in_hand, first .. ':' .. value)
    redis.call('ZADD', base .. 'newest:' .. key, in_hand, last .. ':' .. value)
    if not first_before then
      local full_at = redis.call('HGET', base .. 'full_at:' .. key, value) or 0
      redis.call('ZADD', base .. 'value:' .. key, 0, sortable(value) .. value)
      redis.call('ZADD', base .. 'paced:' .. key, full_at, value)
    end
  elseif first_before then
    redis.call('ZREM', base .. 'value:' .. key, sortable(value) .. value)
    redis.call('ZREM', base .. 'paced:' .. key, value)
  end
end

-- Put a submission into its groups, or take it out of them: `command` is ZADD or ZREM.
local function change_groups(id, command)
  local pairs_flat = redis.call('HGETALL', sub_key(id) .. ':meta')
  for i = 1, #pairs_flat, 2 do
    local members = base .. 'meta:' .. pairs_flat[i] .. ':' .. pairs_flat[i + 1]
    local first = redis.call('ZRANGE', members, 0, 0)[1]
    local last = redis.call('ZRANGE', members, -1, -1)[1]
    if command == 'ZADD' then
      redis.call('ZADD', members, 0, id)
    else
      redis.call('ZREM', members, id)
    end
    place_group(pairs_flat[i], pairs_flat[i + 1], first, last)
  end
end

-- A submission without strategic metadata is in one set and pays for nothing else.
local function enter_ready(id)
  local signature = redis.call('HGET', sub_key(id), 'signature')
  if not signature then
    redis.call('ZADD', base .. 'ready', 0, id)
  elseif redis.call('ZADD', base .. 'ready:' .. signature, 0, id) == 1 then
    redis.call('SADD', base .. 'signatures', signature)
    change_groups(id, 'ZADD')
  end
end

-- Answers whether it was ready.
local function leave_ready(id)
  local signature = redis.call('HGET', sub_key(id), 'signature')
  if not signature then
    return redis.call('ZREM', base .. 'ready', id) == 1
  end
  local set = base .. 'ready:' .. signature
  if redis.call('ZREM', set, id) == 0 then
    return false
  end
  if redis.call('EXISTS', set) == 0 then
    redis.call('SREM', base .. 'signatures', signature)
  end
  change_groups(id, 'ZREM')
  return true
end

-- Every entry into `reserved` counts +1 here, every exit -1, in the script of the transition.
local function count_in_hand(id, change)
  local key = sub_key(id)
  redis.call('HINCRBY', key, 'chunks_in_hand', change)
  if redis.call('HEXISTS', key, 'signature') == 0 or change == 0 then
    return
  end
  local pairs_flat = redis.call('HGETALL', key .. ':meta')
  for i = 1, #pairs_flat, 2 do
    local name, value = pairs_flat[i], pairs_flat[i + 1]
    local counts = base .. 'inhand:' .. name
    local in_hand = redis.call('HINCRBY', counts, value, change)
    if in_hand <= 0 then
      redis.call('HDEL', counts, value)
    end
    if redis.call('HINCRBY', base .. 'inhand', name, change) == 0 then
      redis.call('HDEL', base .. 'inhand', name)
    end
    local members = base .. 'meta:' .. name .. ':' .. value
    local first = redis.call('ZRANGE', members, 0, 0)[1]
    if first then
      local last = redis.call('ZRANGE', members, -1, -1)[1]
      redis.call('ZADD', base .. 'oldest:' .. name, in_hand, first .. ':' .. value)
      redis.call('ZADD', base .. 'newest:' .. name, in_hand, last .. ':' .. value)
    end
  end
  -- A reserve has found work that a limit held back.
  if change < 0 and redis.call('DEL', base .. 'blocked') == 1 then
    wake()
  end
end

-- Strategic metadata of a submission: its pairs are in the index of look-ups until it is forgotten.
local function change_pairs(id, command)
  local pairs_flat = redis.call('HGETALL', sub_key(id) .. ':meta')
  for i = 1, #pairs_flat, 2 do
    local set = base .. 'pairs:' .. pairs_flat[i] .. ':' .. pairs_flat[i + 1]
    if command == 'ZADD' then
      redis.call('ZADD', set, 0, id)
    else
      redis.call('ZREM', set, id)
    end
  end
end

-- The keys of a submission's strategic metadata, as `ready:SIGNATURE` has them.
local function sign(id)
  local names = redis.call('HKEYS', sub_key(id) .. ':meta')
  if #names == 0 then
    redis.call('HDEL', sub_key(id), 'signature')
  else
    table.sort(names)
    redis.call('HSET', sub_key(id), 'signature', table.concat(names, ','))
  end
end

