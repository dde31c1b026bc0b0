-- Bare complete_chunks: the commands that the end of a reservation needs. state_machine.py replaces
-- the names behind a dollar, depending on the strategy.
local base, n = KEYS[1], tonumber(ARGV[1])
local reservations, stats, recent = base .. 'reservations', base .. 'stats', base .. 'recent'
local counts, scores = {}, {}
redis.call('XRANGE', reservations, ARGV[3], ARGV[2 + n], 'COUNT', n)
redis.call('XACK', reservations, 'workers', unpack(ARGV, 3, 2 + n))
redis.call('XDEL', reservations, unpack(ARGV, 3, 2 + n))
for i = 3 + n, #ARGV, 3 do
  local id, first, count = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = base .. 'sub:' .. id
  redis.call('HMGET', key, 'state', 'chunks_total', 'chunk_size', 'operations_total',
    'chunks_done', 'operations_done', 'chunks_in_hand', 'max_failed_operations', 'watched_until')
  for index = first, first + count - 1 do
    redis.call('SETBIT', key .. ':done', index, 1)
  end
  $touch
  redis.call('HSET', key, 'chunks_done', first + count, 'operations_done', first + count,
    'chunks_in_hand', 0)
end
$write
redis.call('HINCRBY', stats, 'chunks_completed', n)
redis.call('HINCRBY', stats, 'operations_completed', n)
redis.call('HINCRBY', stats, 'backlog_chunks', -n)
redis.call('HINCRBY', stats, 'backlog_operations', -n)
redis.call('HINCRBY', recent, 'c:' .. ARGV[2], n)
redis.call('HINCRBY', recent, 'o:' .. ARGV[2], n)
return n
