-- get_workers: reading.
--
-- What workers report about themselves, and how many chunks they hold; of as many of them as one
-- script may examine.
--
-- KEYS[1]    base  prefix of the queue's keys
-- ARGV[1]    now   see _prelude
-- ARGV[2]    from  where to continue with the first worker: '-' or the last call's next_from
-- ARGV[3...] rest  workers
--
-- With _group.
--
-- Returns {"found", now, workers, next_from}: {last_seen, info, dead_at, chunks, reserved_at} of
-- each of the first workers. last_seen is -1 if there is no such worker; info is '' until its first
-- heartbeat; reserved_at is that of the oldest of these chunks, 0 if there is none. If next_from is
-- not '', the last one of them has further chunks.
local from, reservations = ARGV[2], base .. 'reservations'
local PAGE = 500  -- of one worker's chunks, or of workers

-- One command counts the chunks of all workers, but also takes time for each of them.
local known
local _, consumers = size_of_group()
if consumers and consumers >= 0 and consumers <= PAGE then
  known = {}
  for _, row in ipairs(redis.call('XPENDING', reservations, 'workers')[4] or {}) do
    known[row[1]] = tonumber(row[2])
  end
  work = work + consumers
end

-- Return the number of chunks from `first` on, when the oldest was reserved, and the next page.
local function count_of(worker, first)
  if not consumers or known and not known[worker] then
    return 0, 0, ''
  end
  local pending = redis.call('XPENDING', reservations, 'workers', first, '+', known and 1 or PAGE,
    worker)
  work = work + #pending
  local oldest = pending[1] and pending[1][1]
  local entry = oldest and redis.call('XRANGE', reservations, oldest, oldest)[1]
  local has_more = not known and #pending == PAGE
  return known and known[worker] or #pending, entry and tonumber(entry[2][8]) or 0,
    has_more and '(' .. pending[PAGE][1] or ''
end

local rows, next_from = {}, ''
for i = 3, #ARGV do
  local worker = ARGV[i]
  local chunks, reserved_at, more = count_of(worker, i == 3 and from or '-')
  rows[#rows + 1] = {
    tonumber(redis.call('ZSCORE', base .. 'workers', worker) or -1),
    redis.call('HGET', base .. 'worker_info', worker) or '',
    tonumber(redis.call('ZSCORE', base .. 'dead_at', worker) or now),
    chunks, reserved_at,
  }
  work, next_from = work + 8, more
  if more ~= '' or work >= MOST_WORK then
    break
  end
end
return {'found', now, rows, next_from}
