-- list_reservations: reading.
--
-- The chunks in hand, of the queue or of one submission, with who holds them; the oldest first.
--
-- KEYS[1] base   prefix of the queue's keys
-- ARGV[1] now    see _prelude
-- ARGV[2] id     '' for all submissions
-- ARGV[3] from   where the page begins: '-' or what the last call answered
-- ARGV[4] limit  entries looked at, at most
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
    -- Without a group nothing is in hand.
    if not pending.err and pending[1] then
      chunks[#chunks + 1] = {f[2], tonumber(f[4]), tonumber(f[6]), pending[1][2], tonumber(f[8]),
        tonumber(f[10])}
    end
  end
end
return {'listed', chunks, #page == limit and '(' .. page[#page][1] or ''}
