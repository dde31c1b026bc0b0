-- chunks_with_errors: reading.
--
-- The finished chunks of a submission, in any state, with operations that failed; ascending.
--
-- KEYS[1] base         prefix of the queue's keys
-- ARGV[1] now          see _prelude
-- ARGV[2] id
-- ARGV[3] first_index  of the page: earlier chunks are not examined
-- ARGV[4] limit        the most chunks
-- ARGV[5] most_bytes   the most bytes of the bitmap to examine; a chunk is a bit
--
-- Returns {"listed", indexes, next_index}, next_index -1 after the last page; or {"unknown"}.
local key, first_index, limit = sub_key(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('EXISTS', key) == 0 then
  return {'unknown'}
end
local bitmap = key .. ':errors'
local bytes = redis.call('STRLEN', bitmap)
local at = math.floor(first_index / 8)
local page_end = math.min(bytes, at + tonumber(ARGV[5]))
local indexes = {}
while at < page_end do
  -- One command skips zeros: errors may be few among a million chunks.
  local bit = redis.call('BITPOS', bitmap, 1, at, page_end - 1)
  if bit < 0 then
    break
  end
  at = math.floor(bit / 8)
  local byte = string.byte(redis.call('GETRANGE', bitmap, at, at))
  for i = 0, 7 do
    local index = at * 8 + i
    if math.floor(byte / 2 ^ (7 - i)) % 2 == 1 and index >= first_index then
      if #indexes == limit then
        return {'listed', indexes, index}
      end
      indexes[#indexes + 1] = index
    end
  end
  at = at + 1
end
return {'listed', indexes, page_end < bytes and page_end * 8 or -1}
