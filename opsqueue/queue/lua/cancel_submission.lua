-- cancel_submission: in_progress -> cancelled.
--
-- The cost does not depend on the number of chunks: cursor and redo are kept, out of the index of
-- work, and reservations are revoked because the submission has ended.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
-- ARGV[2] id
--
-- With _end_submission, _submission.
--
-- Returns {"changed", submission}, {"ended", submission}, or {"unknown"}.
local id = ARGV[2]

local state = redis.call('HGET', sub_key(id), 'state')
if not state then
  return {'unknown'}
elseif state ~= 'in_progress' then
  return {'ended', submission_row(id)}
end
go_on_without_memory()
end_submission(id, 'cancelled', 0)
return {'changed', submission_row(id)}
