-- reserve_chunks: ready -> reserved.
--
-- The strategy chooses the submission again for each chunk. In it, released chunks come first, by
-- index, then the one at the cursor. Each becomes an entry of the stream and is delivered to the
-- worker here, so there is no moment at which it is neither free nor reserved.
--
-- KEYS[1] base                  prefix of the queue's keys
-- ARGV[1] now                   see _prelude
-- ARGV[2] worker                the worker's name
-- ARGV[3] limit                 the most chunks
-- ARGV[4] reservation_ms        until it expires
-- ARGV[5] strategy              JSON, see _strategy.lua
-- ARGV[6] chance                a random integer of 30 bits, from the caller
-- ARGV[7] scan_from             '', or the scan_from of an answer without chunks
-- ARGV[8] heartbeat_timeout_ms  for a new worker; for others, that of the last heartbeat is kept
-- ARGV[9] repeats_metadata      1 if the caller passes metadata on with each chunk; each one counts
-- ARGV[10] begun                entries whose handlers have begun, see `begun`; '-': as before
-- ARGV[11] alone                1 if the worker holds nothing
-- ARGV[12] group                of the workers with its strategy, in which it sleeps if it finds
--                               nothing, see _wake.lua; '': it doesn't
--
-- With _alive, _handout, _history, _hosting, _in_hand, _strategy, _token, _wake.
--
-- Returns {"reserved" | "paused", has_alarm, now, next_due, expires_at, chunks, submissions,
-- scan_from, is_cut, again, mode, due_in}. has_alarm is 0 if a sleeper leaves it to others of its
-- group to come at next_due, which is the instant of the next delayed chunk, or when a rate limit
-- permits one, or -1 if there can be none before a resume. chunks is a flat list of token, attempt,
-- and input of a small submission or nil. submissions {values, id, is_suspect, metadata} each, flat
-- too; the nine values are those of the fields that _handout.lua reads. is_cut is 1 if inputs and
-- metadata filled the answer, or these chunks are work enough for a script. again has the positions
-- of the chunks that were in hand before. mode is "suspect" if the only chunk is one, "drain" if
-- the worker must reserve nothing until it holds nothing, or ''. due_in: see _alive.lua.
local worker, reservation_ms = ARGV[2], ARGV[4]
asked = tonumber(ARGV[3])
local strategy, chance, scan_from = cjson.decode(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local expires_at, bytes_left = now + tonumber(reservation_ms), 1024 * 1024
local repeats_metadata, group = ARGV[9] == '1', ARGV[12]
local next_due
local EXPIRY_LOOK_MS = 5000
-- Chunks that were in hand before, "ID:INDEX" each; nil if there are none.
local was_in_hand, mode = nil, ''

local function answer(tag, chunks, submissions, rest, again)
  local next_at = next_due or -1
  if next_allowed and (next_at < 0 or next_allowed < next_at) then
    next_at = next_allowed
  end
  local is_cut, has_alarm = bytes_left <= 0 or work >= MOST_WORK, true
  if group ~= '' and mode ~= 'drain' then
    -- Three values for each chunk. Fewer than it has asked for: it sleeps until there are more.
    if #chunks < 3 * asked and rest == '' and not is_cut and mode == '' then
      has_alarm = fall_asleep(group, worker, next_at)
    elseif #chunks > 0 then
      wake_up(group, worker)
      wake_more(group)
    end
  end
  return {tag, has_alarm and 1 or 0, now, next_at, expires_at, chunks, submissions, rest,
    is_cut and 1 or 0, again or {}, mode, due_in}
end

-- It counts as a heartbeat, so that reclaim_dead knows every worker that holds something. A
-- heartbeat younger than a thirtieth of the worker's timeout is good enough and is not replaced.
go_on_without_memory()
local seen_at = redis.call('ZSCORE', base .. 'workers', worker)
local dead_at = redis.call('ZSCORE', base .. 'dead_at', worker)
local own_ms = seen_at and dead_at and dead_at - seen_at
if not own_ms or math.abs(now - seen_at) * 30 >= own_ms then
  note_sign_of_life(worker, own_ms or tonumber(ARGV[8]))
end
if ARGV[10] ~= '-' then
  redis.call('HSET', base .. 'begun', worker, ARGV[10])
end
local known = redis.call('MGET', base .. 'paused', base .. 'history', base .. 'suspect',
  base .. 'isolating')
if known[1] then
  return answer('paused', {}, {}, '')
end
next_due = free_due_chunks(known[4])

local suspect_id, suspect_found, suspect_index
if known[4] then
  local ask_at
  mode, ask_at, suspect_id, suspect_found, suspect_index =
    choose_for(worker, ARGV[11] == '1', known[4], strategy, chance)
  if ask_at and (not next_due or ask_at < next_due) then
    next_due = ask_at
  end
  if mode == 'drain' then
    if group ~= '' then
      wake_one(group)  -- it may have been woken for an ordinary chunk
    end
    return answer('reserved', {}, {}, '')
  elseif mode == 'suspect' then
    asked = 1
  end
end

local subs, order, entries, suspect = {}, {}, {}, last_suspect(known[2], known[3])
for _, layers in ipairs(strategy) do
  for _, layer in ipairs(layers) do
    watched_keys[layer[2] or ''] = true
  end
end
while #entries < asked and bytes_left > 0 and (work < MOST_WORK or #entries == 0) do
  -- A step of Lehmer's generator for each pick: a server's math.random starts the same in each
  -- call.
  chance = chance * 48271 % 2147483647
  local id, found = suspect_id, suspect_found
  if not id then
    id, found = pick(strategy, chance, scan_from)
  end
  if not id then
    scan_from = found
    break
  end
  scan_from = ''
  local sub = subs[id]
  if not sub then
    sub = read_submission(id)
    subs[id] = sub
    order[#order + 1] = id
    bytes_left = bytes_left - sub.shared_bytes
  end
  local index, attempt = suspect_index, nil
  if index or sub.redo > 0 then
    if not index then
      sub.redo = sub.redo - 1
      index = tonumber(redis.call('ZPOPMIN', sub.key .. ':redo', 1)[1])
    end
    local used = redis.call('HGET', sub.key .. ':attempts', index)
    attempt = 1 + (used or 0)
    if used or index < sub.again_below then
      was_in_hand = was_in_hand or {}
      was_in_hand[id .. ':' .. index] = true
    end
  elseif sub.cursor < sub.total then
    index, attempt = sub.cursor, 1
    sub.cursor = sub.cursor + 1
  end
  if index then
    entries[#entries + 1] = {id, index, attempt}
    if sub.inputs then
      sub.inputs[index] = redis.call('HGET', sub.key .. ':in', index)
      bytes_left = bytes_left - #(sub.inputs[index] or '')
    end
    sub.taken, taken = sub.taken + 1, taken + 1
    if repeats_metadata and sub.taken > 1 then
      bytes_left = bytes_left - sub.shared_bytes
    end
    -- One at a time, not as a sum, as the others: the strategy's next pick uses these counts.
    note_in_hand(sub.watched, 1)
    if composed then
      local is_last = index == sub.total - 1
      composed.take_tokens(strategy[found], id,
        is_last and sub.operations - (sub.total - 1) * sub.size or sub.size)
    end
  end
  if sub.redo == 0 and sub.cursor == sub.total then
    leave_ready(id)
  end
end
if is_blocked and #entries < asked then
  -- The script that ends a reservation next wakes the waiting workers.
  redis.call('SET', base .. 'blocked', 1)
end
if #entries == 0 then
  return answer('reserved', {}, {}, scan_from)
end
local submissions = {}
for _, id in ipairs(order) do
  local sub = subs[id]
  if sub.taken > 0 then
    redis.call('HSET', sub.key, 'cursor', sub.cursor, 'chunks_in_hand', sub.in_hand + sub.taken)
    note_in_hand(sub.others, sub.taken)
    local row = sub.row
    row[10], row[11] = id, suspect and string.sub(id, 1, 17) <= suspect and 1 or 0
    row[12], row[13] = nil, nil
    for i, part in ipairs(sub.pairs) do
      row[11 + i] = part
    end
    submissions[#submissions + 1] = row
  end
end
write_in_hand()
if composed then
  composed.write_all_paces()
end

-- Built from the delivered entries, not from the added ones: these are what the worker holds.
local chunks, again = {}, {}
local delivered = deliver(worker, entries, expires_at)
if redis.call('XLEN', base .. 'reservations') == #delivered then
  -- Sweepers look again and again only where something is reserved.
  due_in = due_in < 0 and EXPIRY_LOOK_MS or math.min(due_in, EXPIRY_LOOK_MS)
end
if mode == 'suspect' then
  redis.call('HSET', base .. 'hosts', worker, delivered[1][1])
elseif known[4] == 'ordinary' then
  redis.call('SET', base .. 'isolating', 'suspect', 'XX')
end
for number, entry in ipairs(delivered) do
  local f = entry[2]
  local inputs, n = subs[f[2]].inputs, #chunks
  chunks[n + 1], chunks[n + 2] = token_of(entry), f[6]
  chunks[n + 3] = inputs and inputs[tonumber(f[4])] or false
  if was_in_hand and was_in_hand[f[2] .. ':' .. f[4]] then
    again[#again + 1] = number
  end
end
return answer('reserved', chunks, submissions, '', again)
