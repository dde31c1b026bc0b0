-- In hand: counts of reserved chunks, by submission and by value of strategic metadata.
--
-- With _index, _wake.

-- Note that chunks of a submission with the given pairs of strategic metadata were reserved or that
-- their reservations ended. write_in_hand stores it, once for all changes of a script.
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

-- Update an index of groups ("oldest" or "newest") with the noted changes.
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

-- Learn counts of which changes were noted, but that were not read yet; a single one is stored with
-- the same command. Returns that one.
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

-- Every entry into `reserved` counts +1, every exit -1, in the script of the transition, which ends
-- with write_counts: once for each submission, however many of its chunks are counted.
local counted, pairs_counted = {}, {}
local function count_in_hand(id, change)
  if not counted[id] then
    counted[id] = 0
    pairs_counted[id] = redis.call('HLEN', sub_key(id) .. ':meta')
    work = work + 5 * pairs_counted[id]
  end
  counted[id] = counted[id] + change
end

local function write_counts()
  for id, change in pairs(counted) do
    redis.call('HINCRBY', sub_key(id), 'chunks_in_hand', change)
    if change ~= 0 and pairs_counted[id] > 0 then
      note_in_hand(redis.call('HGETALL', sub_key(id) .. ':meta'), change)
    end
  end
  counted, pairs_counted = {}, {}
  write_in_hand()
end
