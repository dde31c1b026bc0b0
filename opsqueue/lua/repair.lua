-- repair: lost -> ready.
--
-- After the stream or its group was lost (or on demand), finds the chunks below the cursor that are
-- neither done, ready, delayed nor reserved, and frees them; counts what is in hand anew. Walks
-- submissions in progress, failed and cancelled, a bounded step a call.
--
-- KEYS[1] base    prefix of the queue's keys
-- ARGV[1] now     see _prelude
-- ARGV[2] action  "begin": from the start; "step": where the last call stopped
-- ARGV[3] limit   indexes looked at, at most
--
-- Returns {"repaired", chunks, has_more}, or {"idle"}.
local action, left = ARGV[2], tonumber(ARGV[3])
local walk = base .. 'repair'

go_on_without_memory()
if action == 'begin' then
  begin_repair()
end
local at = redis.call('HMGET', walk, 'state', 'from', 'index')
local state, from, index = at[1], at[2], tonumber(at[3])
if not state then
  return {'idle'}
end

-- What is reserved now. All in hand, not a page of it: a chunk taken for lost would be run twice.
local held, held_count = {}, {}
for _, entry in ipairs(redis.call('XRANGE', base .. 'reservations', '-', '+')) do
  local id = entry[2][2]
  held[id .. ':' .. entry[2][4]] = true
  held_count[id] = (held_count[id] or 0) + 1
end

local function is_lost(key, id, i)
  local name = id .. ':' .. i
  return not held[name]
    and not redis.call('ZSCORE', key .. ':redo', i)
    and not redis.call('ZSCORE', base .. 'delayed', name)
end

-- Indexes first..last of a submission; answers how many were lost.
local function free_lost(key, id, first, last)
  local found = 0
  local first_byte = math.floor(first / 8)
  local bits = redis.call('GETRANGE', key .. ':done', first_byte, math.floor(last / 8))
  for i = first, last do
    local byte = string.byte(bits, math.floor(i / 8) - first_byte + 1) or 0
    local is_done = math.floor(byte / 2 ^ (7 - i % 8)) % 2 == 1
    if not is_done and is_lost(key, id, i) then
      put_back(id, i, state)
      found = found + 1
    end
  end
  return found
end

local following = {in_progress = 'failed', failed = 'cancelled'}
local repaired = 0
while state and left > 0 do
  left = left - 1
  local id = redis.call('ZRANGEBYLEX', base .. 'submissions:' .. state, from, '+', 'LIMIT', 0, 1)[1]
  if not id then
    state, from, index = following[state], '-', 0
  else
    if from ~= '[' .. id then
      from, index = '[' .. id, 0
    end
    local key = sub_key(id)
    local row = redis.call('HMGET', key, 'cursor', 'chunks_in_hand')
    if index == 0 then
      count_in_hand(id, (held_count[id] or 0) - tonumber(row[2]))
    end
    -- At least one, or a walk with limit 1 would never get on.
    local last = math.min(tonumber(row[1]), index + math.max(1, left)) - 1
    if last >= index then
      repaired = repaired + free_lost(key, id, index, last)
      left = left - (last + 1 - index)
    end
    index = last + 1
    if index >= tonumber(row[1]) then
      from, index = '(' .. id, 0
    end
  end
end

count('chunks_repaired', repaired)
if repaired > 0 then
  wake()
end
if not state then
  redis.call('DEL', walk)
  return {'repaired', repaired, 0}
end
redis.call('HSET', walk, 'state', state, 'from', from, 'index', index)
return {'repaired', repaired, 1}
