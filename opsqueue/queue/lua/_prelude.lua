-- Prelude: the loader puts this text in front of every script, and behind it the parts that the
-- script's header names.
--
-- The data model; every key begins with `base`, which has the queue's hash tag, so that all lie in
-- one slot of a cluster.
--
-- sub:ID             hash    state, chunks_total, cursor, chunks_done, chunks_in_hand, ...
-- sub:ID:done        bitmap  a bit a finished chunk, while the submission has not completed
-- sub:ID:errors      bitmap  a bit a finished chunk with operations that failed, till forgotten
-- sub:ID:redo        zset    indexes below the cursor that are free, scored by themselves
-- sub:ID:attempts    hash    index -> attempts used, only for chunks that used one
-- sub:ID:in          hash    index -> input, only for submissions that are small in all
-- sub:ID:out         hash    index -> output, of these, where it is small, too
-- sub:ID:meta        hash    strategic metadata
-- sub:ID:failure     hash    the last failure
-- sub:ID:news        stream  length 1, expires: a new entry whenever a chunk is done, or the
--                            submission ends, while `watched_until` of sub:ID is ahead
-- ready              zset    submissions in progress that have a chunk to hand out; score 0, by id;
--                            those with strategic metadata: in ready:SIGNATURE and in the indexes
--                            that _order.lua describes
-- signatures         set     of those that have a ready submission
-- pairs:KEY:VALUE    zset    submissions with that pair, in any state: the index of look-ups
-- limits             hash    limits set while running: max:KEY, max:KEY:VALUE, rate:KEY, ...
-- full_at:KEY        hash    value -> tick at which its rate limit's bucket is full again; expires
--                            when all are
-- blocked            string  a reserve found work that a limit held back
-- submissions:STATE  zset    submissions in that state; score 0, by id
-- expiring           zset    ended submissions -> instant after which they may be forgotten
-- delayed            zset    "ID:index" -> instant when its back-off ends
-- reservations       stream  an entry a chunk in some worker's hands; group `workers`; its fields
--                            in this order: s submission, i index, a attempt, t reserved at,
--                            e expires at
-- workers            zset    worker -> its last sign of life
-- dead_at            zset    worker -> instant from which it is dead without another one, by its
--                            own word: less the one in `workers`, its heartbeat timeout
-- worker_info        hash    worker -> JSON that it tells of itself
-- inhand:KEY         hash    value of strategic metadata -> chunks in hand
-- inhand             hash    key of strategic metadata -> chunks in hand of whatever value
-- prefixes           hash    object prefix -> submission; '' for one that is only garbage
-- garbage            set     prefixes of forgotten submissions, and of uploads that were never
--                            inserted, whose objects are to be deleted
-- spent_inputs       zset    completed submissions whose inputs are to be deleted -> how many are
-- partitions         list    numbers of partitions that were set, ascending; in partition 0 alone
-- defaults           hash    options of submissions whose inserts do not give them
-- retention          string  milliseconds, one of these
-- wake               stream  length 1: a new entry whenever a chunk becomes free
-- events             stream  capped in length and age: what became of submissions
-- stats              hash    totals since the queue exists
-- durations          hash    "STATE:BOUND" -> submissions that ended so within these milliseconds
--                            but not within the bound before; "STATE:sum" -> their milliseconds
-- recent             hash    "c:B" and "o:B" -> chunks and operations completed in the 10 s from
--                            instant B on, of the last 60 to 70 s
-- idem:KEY           string  idempotency key -> submission, expires
-- forgotten:ID       string  how a submission ended that its idempotency key outlives, expires with
--                            the key
-- confirmed          string  written behind each insert that waits for disk or replica
-- history            string  of the server that handed out chunks last: replication id, LASTSAVE,
--                            and when it was looked at
-- suspect            string  stamp of the last submission's id when that changed
-- repair             hash    of a repair under way: phase, where it is, and what it looked at
-- repair:held        set     "ID:index" of each chunk that it has seen reserved
-- format             string  number of the form of all this; 1 without it. It rises by
--                            upgrade_queue, or at the first use of what older ones would misread:
--                            2 has keys of strategic metadata that are percent-encoded
-- last_id, paused, fence, sweeper:NAME (string)
--
-- KEY, a key of strategic metadata, comes percent-encoded: it has neither a colon nor a comma.
--
-- KEYS[1] base  text          prefix of the queue's keys
-- ARGV[1] now   milliseconds  only tests give it; '' asks the server, whose clock is the only one
local base = KEYS[1]
local FORMAT = 2  -- the newest that this version knows
-- In every call: a program may run for months, and whoever raises a format can't ask them all.
local format = tonumber(redis.call('GET', base .. 'format') or 1)
if format > FORMAT then
  return {'format', format, FORMAT}
end
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A server out of memory (noeviction) refuses a script whose first write takes some. Whatever makes
-- room must go on then, so its first write is one that takes none; the key is never there.
local function go_on_without_memory()
  redis.call('DEL', base .. 'none')
end

local function sub_key(id)
  return base .. 'sub:' .. id
end

-- A total ends where its 64 bits do: one that is full must not stop every later transition halfway.
local function count(field, change)
  local answer = redis.pcall('HINCRBY', base .. 'stats', field, change)
  if type(answer) == 'table' and not string.find(tostring(answer.err), 'overflow', 1, true) then
    redis.call('HINCRBY', base .. 'stats', field, change)
  end
end

-- Tell idle workers that a chunk became free. A stream, not a list or pub/sub: a worker reads from
-- the id that its empty reserve answered, so a wake-up between the two can't be missed.
local function wake()
  redis.call('XADD', base .. 'wake', 'MAXLEN', 1, '*', 'at', now)
end
