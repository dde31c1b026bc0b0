-- done_chunks: reading.
--
-- A submission's progress, and which chunks of a window are done, at one consistent instant.
--
-- KEYS[1] base        prefix of the queue's keys
-- ARGV[1] now         see _prelude
-- ARGV[2] id
-- ARGV[3] first_byte  of the bitmap: its highest bit is chunk 8 * first_byte
-- ARGV[4] bytes       the most bytes
--
-- Returns {"found", state, numbers, bits}: numbers is a flat list; bits is '' once the submission
-- has completed (all are done then), and zeros at its end may be missing. Or {"unknown"}.
local key, first = sub_key(ARGV[2]), tonumber(ARGV[3])

local state = redis.call('HGET', key, 'state')
if not state then
  return {'unknown'}
end
local names = {'chunks_total', 'chunks_done', 'operations_total', 'operations_done',
  'operations_failed', 'chunks_in_hand'}
local numbers = {}
for _, name in ipairs(names) do
  numbers[#numbers + 1] = name
  numbers[#numbers + 1] = redis.call('HGET', key, name)
end
return {'found', state, numbers,
  redis.call('GETRANGE', key .. ':done', first, first + tonumber(ARGV[4]) - 1)}
