-- Reported: the loader puts this text in front of scripts that say "With _reported.".
--
-- Many reservations ended at once.

-- Whether an entry's id is in front of another: 13 digits of milliseconds, a hyphen, a sequence.
local function is_before(a, b)
  if #a == #b then
    return a < b
  end
  local a_ms, b_ms = string.sub(a, 1, 13), string.sub(b, 1, 13)
  return a_ms < b_ms or a_ms == b_ms and #a < #b
end

-- Entries by their ids. They mostly lie close together, so that the range from the least to the
-- greatest has most of them. What lies further apart is read singly.
local function entries_of(ids)
  local entries = {}
  local function read(from, to, limit)
    local found = redis.call('XRANGE', base .. 'reservations', from, to, 'COUNT', limit)
    for _, entry in ipairs(found) do
      entries[entry[1]] = entry
    end
  end
  local least, greatest = ids[1], ids[1]
  for _, id in ipairs(ids) do
    least = is_before(id, least) and id or least
    greatest = is_before(greatest, id) and id or greatest
  end
  if least then
    read(least, greatest, #ids)
  end
  for _, id in ipairs(ids) do
    if not entries[id] then
      read(id, id, 1)
    end
  end
  return entries
end

-- End the reservations of tokens as end_reservation does, all at once: an entry is there for as
-- long as it is pending, since both end in one script. Where none is pending, the group is a new
-- one. Answers the fields of the entries by token; without them a token is lost.
local function end_reservations(tokens)
  local ids, id_of = {}, {}
  for _, token in ipairs(tokens) do
    id_of[token] = string.match(token, '^%d+%-%d+')
    ids[#ids + 1] = id_of[token]
  end
  local entries, held, fields = entries_of(ids), {}, {}
  for _, token in ipairs(tokens) do
    local id = id_of[token]
    local entry = id and entries[id]
    if entry and (token == id or token == token_of(entry)) then
      held[#held + 1] = id
      fields[token] = entry[2]
      entries[id] = nil  -- an entry ends once, by whichever name
    end
  end
  local reservations = base .. 'reservations'
  if #held == 0 or redis.call('XACK', reservations, 'workers', unpack(held)) == 0 then
    return {}
  end
  redis.call('XDEL', reservations, unpack(held))
  return fields
end

