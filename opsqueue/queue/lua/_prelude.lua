-- Prelude: the loader puts this text in front of every script, followed by the parts that the
-- script's header names.
--
-- The data model. Every key begins with `base`, which has the queue's hash tag, so that all keys
-- are in one slot of a cluster.
--
-- sub:ID             hash    state, chunks_total, cursor, chunks_done, chunks_in_hand, ...
-- sub:ID:done        bitmap  a bit for each finished chunk, until the submission has completed
-- sub:ID:errors      bitmap  a bit for each finished chunk with failed operations, until forgotten
-- sub:ID:redo        zset    indexes below the cursor that are free; the score is the index
-- sub:ID:attempts    hash    index -> attempts used, only for chunks that were in hand before; 0:
--                            it used none
-- sub:ID:in          hash    index -> input, only for small submissions
-- sub:ID:out         hash    index -> output, likewise, if it is small
-- sub:ID:meta        hash    strategic metadata
-- sub:ID:failure     hash    the last failure
-- sub:ID:news        stream  length 1, expires: a new entry whenever a chunk is done, or the
--                            submission ends, while `watched_until` of sub:ID is in the future
-- ready              zset    submissions in progress with a chunk to reserve; score 0, by id;
--                            those with strategic metadata: in ready:SIGNATURE and in the indexes
--                            that _order.lua describes
-- signatures         set     the signatures that have a ready submission
-- pairs:KEY:VALUE    zset    submissions with that pair, in any state: the index of look-ups
-- limits             hash    limits set at run time: max:KEY, max:KEY:VALUE, rate:KEY, ...
-- full_at:KEY        hash    value -> tick at which its rate limit's bucket is full again; expires
--                            when all are
-- blocked            string  a reserve found work that a limit held back
-- submissions:STATE  zset    submissions in that state; score 0, by id
-- expiring           zset    ended submissions -> instant after which they may be forgotten
-- delayed            zset    "ID:index" -> instant when its back-off ends
-- suspects           zset    "ID:index" of chunks that wait for a worker that holds nothing else ->
--                            since when; each is in `delayed`, too, see _suspects.lua
-- hosts              hash    worker -> entry of the suspect that it holds
-- isolating          string  exists while suspects wait or are held: what an only worker gets
--                            next, `suspect` or `ordinary`
-- drainer            string  an instant, and the worker that reserves nothing until then, so that
--                            it can host a suspect
-- reservations       stream  an entry for each reserved chunk; group `workers`; its fields
--                            in this order: s submission, i index, a attempt, t reserved at,
--                            e expires at
-- workers            zset    worker -> its last heartbeat
-- dead_at            zset    worker -> instant from which it is dead without another heartbeat;
--                            minus the one in `workers`: its own heartbeat timeout
-- worker_info        hash    worker -> JSON that it reports about itself
-- begun              hash    worker -> entries of `reservations` whose handlers it has begun, as it
--                            reported last, ascending, each after a space (an older version's: in
--                            any order, without the first space); some may have ended since. No
--                            field: it never reports them, so that all it holds counts as begun
-- inhand:KEY         hash    value of strategic metadata -> reserved chunks
-- inhand             hash    key of strategic metadata -> reserved chunks with any value
-- prefixes           hash    object prefix -> submission; '' if it is only pending deletion
-- garbage            set     prefixes pending deletion: of forgotten submissions, and of uploads
--                            that were never inserted
-- spent_inputs       zset    completed submissions whose inputs are to be deleted -> how many are
-- partitions         list    numbers of partitions that were set, ascending; only in partition 0
-- tags               hash    number of a partition -> its hash tag, without the queue's name and
--                            slash; only in partition 0. No field: two digits, such as 03. Stays
--                            when the queue is deleted
-- spread_by          string  key of strategic metadata whose value chooses the partition of a new
--                            submission; only in partition 0
-- defaults           hash    options of submissions whose inserts don't set them
-- retention          string  milliseconds; the default of the retention
-- sleepers:GROUP     zset    workers with one strategy that sleep until a chunk is free -> since
--                            when; see _wake.lua
-- groups             set     the groups that have sleepers
-- alarms:GROUP       zset    workers of the group that come back by themselves -> when
-- wake               stream  length 1: a new entry whenever a chunk becomes free; versions up to
--                            0.1 sleep until then
-- events             stream  capped in length and age: state changes of submissions
-- stats              hash    totals since the queue was created
-- durations          hash    "STATE:BOUND" -> submissions that ended so within these milliseconds
--                            but not within the bound before; "STATE:sum" -> their milliseconds
-- recent             hash    "c:B" and "o:B" -> chunks and operations completed in the 10 s from
--                            instant B on, for the last 60 to 70 s
-- idem:KEY           string  idempotency key -> submission, expires
-- forgotten:ID       string  the final state of a forgotten submission whose idempotency key is
--                            still known; expires with the key
-- confirmed          string  written after each insert that waits for disk or replica
-- history            string  of the server that reserved chunks last: replication id, LASTSAVE,
--                            and when they were read
-- suspect            string  stamp of the last submission's id when that changed
-- repair             hash    a repair in progress: phase, position, and what it has examined
-- repair:held        set     "ID:index" of each chunk that it has seen reserved
-- format             string  number of the format of all this; 1 without it. It is raised by
--                            upgrade_queue, or at the first use of what older ones would misread:
--                            2 has percent-encoded keys of strategic metadata, 3 partitions with
--                            other tags than two digits, or that metadata chooses
-- last_id, paused, fence, sweeper:NAME (string)
--
-- KEY, a key of strategic metadata, comes percent-encoded: it has neither a colon nor a comma.
--
-- KEYS[1] base  text          prefix of the queue's keys
-- ARGV[1] now   milliseconds  only for tests; '' means the server's clock, the only one otherwise
local base = KEYS[1]
local FORMAT = 3  -- the newest that this version knows
local POSTPONED_MS = 300000  -- a waiting suspect in `delayed`
-- Checked in every call: a program may run for months, and an upgrade can't ask all programs.
local format = tonumber(redis.call('GET', base .. 'format') or 1)
if format > FORMAT then
  return {'format', format, FORMAT}
end
local time = ARGV[1] == '' and redis.call('TIME') or {}
local now = tonumber(ARGV[1])
  or tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- What a script has done so far, about in commands. While a script runs, all other clients wait. So
-- one that ends many reservations stops at MOST_WORK, which is some milliseconds, and its answer
-- tells where to continue. Submissions with many pairs of strategic metadata cost most.
local work, MOST_WORK = 0, 1000

-- A server out of memory (noeviction) refuses a script whose first write needs memory. A script
-- that frees memory must run then, so its first write is one that needs none; the key never exists.
local function go_on_without_memory()
  redis.call('DEL', base .. 'none')
end

local function sub_key(id)
  return base .. 'sub:' .. id
end

-- A total is limited to 64 bits; one that is full must not stop later transitions half-way.
local function count(field, change)
  local answer = redis.pcall('HINCRBY', base .. 'stats', field, change)
  if type(answer) == 'table' and not string.find(tostring(answer.err), 'overflow', 1, true) then
    redis.call('HINCRBY', base .. 'stats', field, change)
  end
end
