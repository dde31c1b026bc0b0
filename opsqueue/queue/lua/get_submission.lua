-- get_submission: reading.
--
-- KEYS[1] base  prefix of the queue's keys
-- ARGV[1] now   see _prelude
-- ARGV[2] id
--
-- With _submission.
--
-- Returns {"found", submission} or {"unknown"}.
local row = submission_row(ARGV[2])
if #row == 0 then
  return {'unknown'}
end
return {'found', row}
