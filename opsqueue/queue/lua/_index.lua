-- Index: the indexes by which ready submissions are found.

local function complement(digits)
  return (string.gsub(digits, '%d', function(digit)
    return 9 - digit
  end))
end

-- Return a 64-bit integer as 20 characters that sort like the numbers: a sign, then the digits, as
-- nines' complement if it is negative. A score would only hold 53 bits.
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

-- First and last members and sizes of sets, looked up once; change_set invalidates them.
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
local function change_set(command, set, ...)
  firsts[set], lasts[set], sizes[set] = nil, nil, nil
  return redis.call(command, set, ...)
end

-- Reserved chunks by key and value, as they will be stored: see note_in_hand.
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

-- Add a submission to its groups (the ready submissions with one value of a key), or remove it from
-- them: `command` is ZADD or ZREM. _order.lua describes the indexes of a key.
local function change_groups(id, command)
  local pairs_flat = redis.call('HGETALL', sub_key(id) .. ':meta')
  work = work + 3 * #pairs_flat
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

-- A submission without strategic metadata is in one set and costs nothing more.
local is_entered = {}  -- those that this script has entered: many of its chunks may come back
local function enter_ready(id)
  if is_entered[id] then
    return
  end
  is_entered[id] = true
  local signature = redis.call('HGET', sub_key(id), 'signature')
  if not signature then
    change_set('ZADD', base .. 'ready', 0, id)
  elseif change_set('ZADD', base .. 'ready:' .. signature, 0, id) == 1 then
    redis.call('SADD', base .. 'signatures', signature)
    change_groups(id, 'ZADD')
  end
end

-- Returns whether it was ready.
local function leave_ready(id)
  is_entered[id] = nil
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

-- Release a chunk. If its submission has ended, the chunk waits for a retry; if it is forgotten,
-- nothing is done. Returns whether the chunk can be reserved now.
local function put_back(id, index, state)
  if not state then
    return false
  end
  redis.call('ZADD', sub_key(id) .. ':redo', index, index)
  if state ~= 'in_progress' then
    return false
  end
  enter_ready(id)
  return true
end
