-- reclaim_expired: reserved -> ready or failed.
--
-- Takes chunks back whose reservation's time is over, from workers that live: their handler hangs.
-- Uses an attempt. Walks the stream in pages; each entry says when it expires, since handlers of
-- one queue may differ in that while a new version of one is rolled out.
--
-- KEYS[1] base     prefix of the queue's keys
-- ARGV[1] now      see _prelude
-- ARGV[2] sweeper  the worker that does it; one at a time
-- ARGV[3] from     where the page begins: '-' or what the last call answered
-- ARGV[4] limit    entries looked at, at most
-- ARGV[5] lock_ms  how long others leave it to this one
--
-- Returns {"reclaimed", chunks, next_from}, next_from '' after the last page; or {"busy"}.
local sweeper, from, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local reservations = base .. 'reservations'

go_on_without_memory()
if not take_sweep('expired', sweeper, ARGV[5]) then
  return {'busy'}
end

local reclaimed = 0
local page = redis.call('XRANGE', reservations, from, '+', 'COUNT', limit)
for _, entry in ipairs(page) do
  local token, f = entry[1], entry[2]
  if tonumber(f[10]) <= now then
    local pending = redis.pcall('XPENDING', reservations, 'workers', token, token, 1)
    local worker = not is_nogroup(pending) and pending[1] and pending[1][2] or 'unknown'
    local id, index, state = end_reservation(token)
    if id then
      reclaimed = reclaimed + 1
      count('chunks_reclaimed', 1)
      use_attempt(id, index, state, {type = 'ReservationExpired', traceback = '',
        message = string.format('worker %s did not report within %.0f ms', worker,
          f[10] - f[8])}, nil)
    end
  end
end
local next_from = #page == limit and '(' .. page[#page][1] or ''
return {'reclaimed', reclaimed, next_from}
