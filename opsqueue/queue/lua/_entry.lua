-- Entry: entries of the stream of reservations.
--
-- With _token.

-- Return whether an entry of the stream is a reservation: an operator can add anything to it.
local function is_reservation(entry)
  local f = entry[2]
  return #f == 10 and f[1] == 's' and tonumber(f[4]) and tonumber(f[8]) and tonumber(f[10])
end

-- Return whether an entry's id precedes another: 13 digits of milliseconds, a hyphen, a sequence.
local function is_before(a, b)
  if #a == #b then
    return a < b
  end
  local a_ms, b_ms = string.sub(a, 1, 13), string.sub(b, 1, 13)
  return a_ms < b_ms or a_ms == b_ms and #a < #b
end

-- Return the reservation named by a token or an entry's id; nil if it has ended or is of another
-- chunk. Also returns the entry's id, and whether the stream has an entry with that id.
local function entry_of(token)
  local entry_id, chunk = string.match(token, '^(%d+%-%d+)(.*)$')
  if not entry_id then
    return nil
  end
  local entry = redis.call('XRANGE', base .. 'reservations', entry_id, entry_id)[1]
  if entry and is_reservation(entry) and (chunk == '' or token == token_of(entry)) then
    return entry, entry_id, true
  end
  return nil, entry_id, entry ~= nil
end
