-- fail_chunk: reserved -> delayed or ready or failed.
--
-- Uses an attempt. The next one waits for the submission's back-off; if it was the last, or is
-- reported as final, the submission fails with this chunk's failure.
--
-- KEYS[1] base       prefix of the queue's keys
-- ARGV[1] now        see _prelude
-- ARGV[2] token
-- ARGV[3] type       of the failure: an exception's name
-- ARGV[4] message
-- ARGV[5] traceback
-- ARGV[6] jitter     0 to 1000 per mille of the half of the back-off that is random
-- ARGV[7] is_final   1: no further attempt would change the result
--
-- With _attempt, _reservation.
--
-- Returns {"retried" | "failed", id, attempt, next_at}, {"lost"}, or {"dropped", id}.
local token = ARGV[2]
local failure = {type = ARGV[3], message = ARGV[4], traceback = ARGV[5]}
local jitter, is_final = tonumber(ARGV[6]), ARGV[7] == '1'

local id, index, state = end_reservation(token)
if not id then
  write_counts()  -- it may have freed a chunk that nobody held
  return {'lost'}
end
local outcome, attempt, next_at = use_attempt(id, index, state, failure, jitter, is_final)
write_counts()
if outcome == 'dropped' then
  return {'dropped', id}
end
return {outcome, id, attempt, next_at}
