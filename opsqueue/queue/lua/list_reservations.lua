-- list_reservations: reading.
--
-- The reserved chunks of the queue or of one submission, with their workers; the oldest first.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] id     '' for all submissions
-- ARGV[3] from   start of the page: '-' or the last call's next_from
-- ARGV[4] limit  the most entries to examine
--
-- With _entry.
--
-- Returns {"listed", chunks, next_from}: chunks {id, index, attempt, worker, reserved_at,
-- expires_at} each; next_from '' after the last page.
local wanted, from, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local reservations = base .. 'reservations'

local chunks, holders = {}, {}
local page = redis.call('XRANGE', reservations, from, '+', 'COUNT', limit)

-- Note the workers that hold the entries of a range. Without a group nothing is reserved.
local function look_at(first, last, count_most)
  local pending = redis.pcall('XPENDING', reservations, 'workers', first, last, count_most)
  for _, row in ipairs(pending.err and {} or pending) do
    holders[row[1]] = row[2]
  end
end

if #page > 0 then
  look_at(page[1][1], page[#page][1], #page)
end
for _, entry in ipairs(page) do
  if not holders[entry[1]] then
    look_at(entry[1], entry[1], 1)  -- the range may have had pending entries without a chunk
  end
  local holder, f = holders[entry[1]], entry[2]
  if holder and is_reservation(entry) and (wanted == '' or f[2] == wanted) then
    chunks[#chunks + 1] = {f[2], tonumber(f[4]), tonumber(f[6]), holder, tonumber(f[8]),
      tonumber(f[10])}
  end
end
return {'listed', chunks, #page == limit and '(' .. page[#page][1] or ''}
