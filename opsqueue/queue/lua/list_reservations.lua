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

local chunks = {}
local page = redis.call('XRANGE', reservations, from, '+', 'COUNT', limit)
for _, entry in ipairs(page) do
  local token, f = entry[1], entry[2]
  if is_reservation(entry) and (wanted == '' or f[2] == wanted) then
    local pending = redis.pcall('XPENDING', reservations, 'workers', token, token, 1)
    -- Without a group nothing is reserved.
    if not pending.err and pending[1] then
      chunks[#chunks + 1] = {f[2], tonumber(f[4]), tonumber(f[6]), pending[1][2], tonumber(f[8]),
        tonumber(f[10])}
    end
  end
end
return {'listed', chunks, #page == limit and '(' .. page[#page][1] or ''}
