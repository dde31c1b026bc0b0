-- Index: the loader puts this text behind the prelude, in front of every script.
--
-- What a submission that is ready, or has chunks in hand, or has strategic metadata, is found by.

local function complement(digits)
  return (string.gsub(digits, '%d', function(digit)
    return 9 - digit
  end))
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

local function table_in(parent, name)
  local child = parent[name]
  if not child then
    child = {}
    parent[name] = child
  end
  return child
end

-- First and last members and sizes of sets, looked up once: who changes a set says so.
local firsts, lasts, sizes = {}, {}, {}
local function first_of(set)
  if firsts[set] == nil then
    firsts[set] = redis.call('ZRANGE', set, 0, 0)[1] or false
  end
  return firsts[set] or nil
end
local function last_of(set)
  if lasts[set] == nil then
    lasts[set] = redis.call('ZRANGE', set, -1, -1)[1] or false
  end
  return lasts[set] or nil
end
local function size_of(set)
  sizes[set] = sizes[set] or redis.call('ZCARD', set)
  return sizes[set]
end
local function change_set(command, set, ...)
  firsts[set], lasts[set], sizes[set] = nil, nil, nil
  return redis.call(command, set, ...)
end

-- Chunks in hand by key and value, as they will be written down: see note_in_hand.
local in_hand, in_hand_changes = {}, {}
local unwritten, unscored = {}, {oldest = {}, newest = {}}
local function in_hand_of(key, value)
  local known = table_in(in_hand, key)
  if not known[value] then
    local written = redis.call('HGET', base .. 'inhand:' .. key, value) or 0
    known[value] = math.max(0, written + (unwritten[key] and unwritten[key][value] or 0))
  end
  return known[value]
end

-- Put a submission into its groups (the ready submissions with one value of a key), or take it out
-- of them: `command` is ZADD or ZREM. See _order.lua for what the indexes of a key hold.
local function change_groups(id, command)
  local pairs_flat = redis.call('HGETALL', sub_key(id) .. ':meta')
  for i = 1, #pairs_flat, 2 do
    local key, value = pairs_flat[i], pairs_flat[i + 1]
    local members = base .. 'meta:' .. key .. ':' .. value
    local first_before, last_before = first_of(members), last_of(members)
    if command == 'ZADD' then
      change_set('ZADD', members, 0, id)
    else
      change_set('ZREM', members, id)
    end
    local first, last = first_of(members), last_of(members)
    if first_before and first_before ~= first then
      redis.call('ZREM', base .. 'oldest:' .. key, first_before .. ':' .. value)
    end
    if last_before and last_before ~= last then
      redis.call('ZREM', base .. 'newest:' .. key, last_before .. ':' .. value)
    end
    if first then
      local count_now = in_hand_of(key, value)
      redis.call('ZADD', base .. 'oldest:' .. key, count_now, first .. ':' .. value)
      redis.call('ZADD', base .. 'newest:' .. key, count_now, last .. ':' .. value)
      if not first_before then
        local full_at = redis.call('HGET', base .. 'full_at:' .. key, value) or 0
        change_set('ZADD', base .. 'value:' .. key, 0, sortable(value) .. value)
        redis.call('ZADD', base .. 'paced:' .. key, full_at, value)
      end
    elseif first_before then
      change_set('ZREM', base .. 'value:' .. key, sortable(value) .. value)
      redis.call('ZREM', base .. 'paced:' .. key, value)
    end
  end
end

-- A submission without strategic metadata is in one set and pays for nothing else.
local function enter_ready(id)
  local signature = redis.call('HGET', sub_key(id), 'signature')
  if not signature then
    change_set('ZADD', base .. 'ready', 0, id)
  elseif change_set('ZADD', base .. 'ready:' .. signature, 0, id) == 1 then
    redis.call('SADD', base .. 'signatures', signature)
    change_groups(id, 'ZADD')
  end
end

-- Answers whether it was ready.
local function leave_ready(id)
  local signature = redis.call('HGET', sub_key(id), 'signature')
  if not signature then
    return change_set('ZREM', base .. 'ready', id) == 1
  end
  local set = base .. 'ready:' .. signature
  if change_set('ZREM', set, id) == 0 then
    return false
  end
  if redis.call('EXISTS', set) == 0 then
    redis.call('SREM', base .. 'signatures', signature)
  end
  change_groups(id, 'ZREM')
  return true
end

-- Note that chunks of a submission, whose pairs of strategic metadata are given, came into hand or
-- left it. Written by write_in_hand, once for all that a script takes or ends.
local function note_in_hand(pairs_flat, change)
  for i = 1, #pairs_flat, 2 do
    local key, value = pairs_flat[i], pairs_flat[i + 1]
    local known, changes = in_hand[key], table_in(unwritten, key)
    if known and known[value] then
      known[value] = math.max(0, known[value] + change)
    end
    changes[value] = (changes[value] or 0) + change
    in_hand_changes[key] = (in_hand_changes[key] or 0) + change
    table_in(unscored.oldest, key)[value] = true
    table_in(unscored.newest, key)[value] = true
  end
end

-- Bring an index of groups ("oldest" or "newest") up to date with what is noted.
local function score_groups(index, key)
  local values, scored = unscored[index][key], {}
  if not values then
    return
  end
  unscored[index][key] = nil
  local head_of = index == 'oldest' and first_of or last_of
  for value in pairs(values) do
    local head = head_of(base .. 'meta:' .. key .. ':' .. value)
    if head then
      scored[#scored + 1] = in_hand_of(key, value)
      scored[#scored + 1] = head .. ':' .. value
    end
  end
  if #scored > 0 then
    redis.call('ZADD', base .. index .. ':' .. key, unpack(scored))
  end
end

-- Make counts known that changes were noted of and that nobody has asked for; one alone is written
-- down with the same command. Answers that one.
local function learn_in_hand(key, changes)
  local known, unknown = table_in(in_hand, key), {}
  for value in pairs(changes) do
    if not known[value] then
      unknown[#unknown + 1] = value
    end
  end
  if #unknown == 1 then
    local alone = unknown[1]
    local count_now = redis.call('HINCRBY', base .. 'inhand:' .. key, alone, changes[alone])
    known[alone] = math.max(0, count_now)
    return alone
  elseif #unknown > 1 then
    local counts = redis.call('HMGET', base .. 'inhand:' .. key, unpack(unknown))
    for i, value in ipairs(unknown) do
      known[value] = math.max(0, (counts[i] or 0) + changes[value])
    end
  end
end

local function write_in_hand()
  local has_room = false
  for key, changes in pairs(unwritten) do
    local written = learn_in_hand(key, changes)
    local counts, empty = {}, {}
    for value in pairs(changes) do
      local count_now = in_hand[key][value]
      if count_now == 0 then
        empty[#empty + 1] = value
      elseif value ~= written then
        counts[#counts + 1] = value
        counts[#counts + 1] = count_now
      end
    end
    if #counts > 0 then
      redis.call('HSET', base .. 'inhand:' .. key, unpack(counts))
    end
    if #empty > 0 then
      redis.call('HDEL', base .. 'inhand:' .. key, unpack(empty))
    end
    local change = in_hand_changes[key]
    has_room = has_room or change < 0
    if redis.call('HINCRBY', base .. 'inhand', key, change) == 0 then
      redis.call('HDEL', base .. 'inhand', key)
    end
    score_groups('oldest', key)
    score_groups('newest', key)
  end
  unwritten, in_hand_changes = {}, {}
  -- A reserve has found work that a limit held back.
  if has_room and redis.call('DEL', base .. 'blocked') == 1 then
    wake()
  end
end

-- Every entry into `reserved` counts +1, every exit -1, in the script of the transition.
local function count_in_hand(id, change)
  local key = sub_key(id)
  redis.call('HINCRBY', key, 'chunks_in_hand', change)
  if change ~= 0 and redis.call('HEXISTS', key, 'signature') == 1 then
    note_in_hand(redis.call('HGETALL', key .. ':meta'), change)
    write_in_hand()
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

