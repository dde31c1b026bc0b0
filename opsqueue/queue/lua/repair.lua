-- repair: lost -> ready.
--
-- After reservations were lost (the stream or its group, or entries that something else removed),
-- or on demand, finds the chunks below the cursor that are neither done, ready, delayed nor
-- reserved, and frees them. The work of a call is bounded, however many chunks are reserved or in a
-- submission.
--
-- Three phases. "pending": entries that are pending but not in the stream are acknowledged.
-- "stream": the chunk of each entry goes into repair:held; an entry that is not pending is removed
-- and its chunk freed at once. "submissions": those in progress, failed and cancelled are walked in
-- the order of their ids, whatever state they change to meanwhile; a chunk that is in none of its
-- places, nor in repair:held, is lost.
--
-- Why no reserved chunk is freed, although the stream is not read completely in one script: a
-- reservation is one entry of the stream from its beginning to its end, and ids of entries ascend.
-- Every call of the last phase first reads the entries added since the call before, and frees
-- nothing unless it reached the end of the stream. From then until the call ends nothing else runs.
-- So each entry that is then in the stream has been read, by an earlier call or by this one, and
-- its chunk is in repair:held. (A stream that is created again may start its ids again: then the
-- repair starts again, in the same script, see reset_reservations.)
--
-- Why no lost chunk is missed: it keeps its submission, its index and its place below the cursor,
-- and only a repair moves it. One that was lost before the repair began has no entry, so it is not
-- in repair:held. One whose entry was read first and then lost is in it, and is passed over; but
-- the script that notices that loss begins a repair, and a repair in progress is then run once more
-- ("again").
--
-- Counts: each lost chunk is counted in its submission's chunks_in_hand until it is freed here.
--
-- KEYS[1] base     prefix of the queue's keys
-- ARGV[1] now      see _prelude
-- ARGV[2] action   "begin": start a repair of all that is lost by now; "step": continue one
-- ARGV[3] limit    about how many entries, unfinished chunks and submissions to examine
-- ARGV[4] sweeper  one at a time, and a "begin" takes over; '': may run beside others
-- ARGV[5] lock_ms  time for which others are locked out
--
-- With _reservation, _walk, _worker.
--
-- Returns {"repaired", chunks, has_more, entries, submissions, chunks_seen, freed, lost}: chunks
-- freed by this call; then totals of this repair; {"busy"}; or {"idle"}.
local action, limit, sweeper = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local repair, held, reservations = base .. 'repair', base .. 'repair:held', base .. 'reservations'

if action == 'step' and redis.call('EXISTS', repair) == 0 then
  return {'idle'}
end
go_on_without_memory()
if action == 'begin' then
  if sweeper ~= '' then
    redis.call('SET', base .. 'sweeper:repair', sweeper, 'PX', ARGV[5])
  end
  begin_repair()
elseif sweeper ~= '' and not take_sweep('repair', sweeper, ARGV[5]) then
  return {'busy'}
end
pending_of('', 1)  -- creates a missing stream and group
if not redis.call('HGET', repair, 'phase') then
  begin_repair()  -- an older version's: from the start
end

local at = redis.call('HMGET', repair, 'phase', 'from', 'read_to', 'index', 'entries',
  'submissions', 'chunks', 'freed', 'lost')
local phase, read_to, entries = at[1], at[3] or '-', tonumber(at[5] or 0)
walk.from, walk.index, walk.left = at[2], tonumber(at[4] or 0), limit
walk.submissions, walk.chunks = tonumber(at[6] or 0), tonumber(at[7] or 0)

local function acknowledge_page()
  local page = redis.call('XPENDING', reservations, 'workers', walk.from, '+', limit)
  for _, pending in ipairs(page) do
    if not redis.call('XRANGE', reservations, pending[1], pending[1])[1] then
      note_lost(redis.call('XACK', reservations, 'workers', pending[1]))
    end
  end
  walk.left = walk.left - #page
  if #page == limit then
    walk.from = '(' .. page[#page][1]
  else
    phase, walk.from = 'stream', '-'
  end
end

-- Read a page of the stream into repair:held; return whether it was the last.
local function mark_page()
  local page = redis.call('XRANGE', reservations, read_to, '+', 'COUNT', walk.left)
  local is_whole = #page < walk.left
  for _, entry in ipairs(page) do
    local entry_id, f = entry[1], entry[2]
    read_to = '(' .. entry_id
    if not is_reservation(entry) then
      end_reservation(entry_id)
    elseif redis.call('XPENDING', reservations, 'workers', entry_id, entry_id, 1)[1] then
      redis.call('SADD', held, f[2] .. ':' .. f[4])
    elseif free_unheld(entry_id, f) then
      walk.freed = walk.freed + 1
    end
  end
  walk.left, entries = walk.left - #page, entries + #page
  return is_whole
end

local is_over = false
if phase == 'pending' then
  acknowledge_page()
end
if phase ~= 'pending' then
  local is_whole = mark_page()
  if is_whole and phase == 'stream' then
    phase = 'submissions'
  end
  is_over = is_whole and phase == 'submissions' and look_at_submissions()
end

write_counts()
local freed = walk.freed
local freed_in_all, lost_in_all = freed + (at[8] or 0), lost_now + (at[9] or 0)
count('chunks_repaired', freed)
if freed > 0 then
  wake()
end
if is_over then
  redis.call('UNLINK', held)
  if redis.call('HDEL', repair, 'again') == 1 then
    is_over, phase, read_to, walk.from, walk.index = false, 'pending', '-', '-', 0
  end
end
if is_over then
  redis.call('DEL', repair)
else
  redis.call('HSET', repair, 'phase', phase, 'from', walk.from, 'read_to', read_to,
    'index', string.format('%.0f', walk.index), 'entries', entries,
    'submissions', walk.submissions, 'chunks', string.format('%.0f', walk.chunks),
    'freed', freed_in_all, 'lost', lost_in_all)
end
return {'repaired', freed, is_over and 0 or 1, entries, walk.submissions, walk.chunks,
  freed_in_all, lost_in_all}
