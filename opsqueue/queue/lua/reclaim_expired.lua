-- reclaim_expired: reserved -> ready or failed.
--
-- Reclaims chunks whose reservation has expired, from live workers: their handlers hang. Uses an
-- attempt of those whose handlers had begun; the others only waited behind them. Walks the stream
-- in pages; each entry has its own instant of expiry, since handlers of one queue may differ in
-- that while a new version is rolled out.
--
-- After the last page it compares the numbers of entries and of pending ones. If they differ,
-- something other than our scripts removed some (XTRIM, XDEL, XACK, a deleted consumer), and a
-- repair begins.
--
-- KEYS[1] base     prefix of the queue's keys
-- ARGV[1] now      see _prelude
-- ARGV[2] sweeper  the worker that sweeps; one at a time
-- ARGV[3] from     start of the page: '-' or the last call's next_from
-- ARGV[4] limit    the most entries to examine; fewer if many of them have expired
-- ARGV[5] lock_ms  time for which others are locked out
--
-- With _attempt, _group, _reservation, _stream, _worker.
--
-- Returns {"reclaimed", chunks, next_from, lost, workers}, next_from '' after the last page; or
-- {"busy"}. lost is the number of reservations that were in the stream but not pending; their
-- chunks are free again. workers are those whose chunks were reclaimed.
local sweeper, from, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local reservations = base .. 'reservations'

go_on_without_memory()
if not take_sweep('expired', sweeper, ARGV[5]) then
  return {'busy'}
end

local reclaimed, holders, begun, is_any_free = 0, {}, {}, false
local page = redis.call('XRANGE', reservations, from, '+', 'COUNT', limit)
local examined = 0
for number, entry in ipairs(page) do
  if work >= MOST_WORK then
    break
  end
  examined = number
  local token, f = entry[1], entry[2]
  if not is_reservation(entry) then
    end_reservation(token)
  elseif tonumber(f[10]) <= now then
    local pending = redis.pcall('XPENDING', reservations, 'workers', token, token, 1)
    local worker = not is_nogroup(pending) and pending[1] and pending[1][2] or 'unknown'
    local id, index, state = end_reservation(token)
    if id then
      reclaimed = reclaimed + 1
      if begun[worker] == nil then
        begun[worker] = begun_of(worker) or false
        holders[#holders + 1] = worker
      end
      if begun[worker] and not begun[worker](token) then
        mark_again(id, index, state)
        is_any_free = put_back_unbegun(token, id, index, state) or is_any_free
      else
        use_attempt(id, index, state, {type = 'ReservationExpired', traceback = '',
          message = string.format('worker %s did not report within %.0f ms', worker,
            f[10] - f[8])}, nil)
      end
    end
  end
end
if reclaimed > 0 then
  count('chunks_reclaimed', reclaimed)
end
write_counts()
if is_any_free then
  wake()
end
if examined < #page or #page == limit then
  return {'reclaimed', reclaimed, '(' .. page[examined][1], lost_now, holders}
end
local pending, entries = size_of_group(), redis.call('XLEN', reservations)
if not pending then
  if entries > 0 then
    reset_reservations()
  end
elseif pending >= 0 and pending ~= entries and redis.call('EXISTS', base .. 'repair') == 0 then
  begin_repair()
end
return {'reclaimed', reclaimed, '', lost_now, holders}
