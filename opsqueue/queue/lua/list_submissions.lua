-- list_submissions: reading.
--
-- KEYS[1]    base   prefix of the queue's keys
-- ARGV[1]    now    see _prelude
-- ARGV[2]    state
-- ARGV[3]    from   the least id; '' for no bound
-- ARGV[4]    below  above the largest id; '' for no bound
-- ARGV[5]    order  "newest" or "oldest" first
-- ARGV[6]    limit  the most submissions
-- ARGV[7...] rest   key and value of each pair of strategic metadata that they must have
--
-- With _find, _submission.
--
-- Returns {"listed", submissions, last}; `last` is the last id examined, '' if nothing comes after
-- it. A bounded number is examined, so that with pairs a page may be short, or empty, and not the
-- last. A page also ends with the submission that makes it larger than PAGE_BYTES, or long enough
-- for a script.
local PAGE_BYTES = 4 * 1024 * 1024
local state, from, below, limit = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[6])

local sets = sets_of_pairs({unpack(ARGV, 7)}, state)
local smallest = smallest_of(sets)
local least, most = from == '' and '-' or '[' .. from, below == '' and '+' or '(' .. below
-- One more than requested tells whether there is a next page.
local look = #ARGV >= 7 and 1000 or limit + 1
local ids
if ARGV[5] == 'newest' then
  ids = redis.call('ZREVRANGEBYLEX', sets[smallest], most, least, 'LIMIT', 0, look)
else
  ids = redis.call('ZRANGEBYLEX', sets[smallest], least, most, 'LIMIT', 0, look)
end

local rows, looked, bytes = {}, 0, 0
for _, id in ipairs(ids) do
  if #rows == limit or bytes > PAGE_BYTES or work >= MOST_WORK then
    break
  end
  looked = looked + 1
  if is_in_all(id, sets, smallest, state) then
    local row = submission_row(id)
    rows[#rows + 1] = row
    for part = 2, #row do
      work = work + 1 + #row[part] / 20
      for _, text in ipairs(row[part]) do
        bytes = bytes + #text
      end
    end
  end
end
local has_more = looked < #ids or #ids == look
return {'listed', rows, has_more and ids[looked] or ''}
