-- Bare reserve_chunks: the commands that a reservation needs. state_machine.py replaces the names
-- behind a dollar, depending on the strategy.
local base, worker, n = KEYS[1], ARGV[1], tonumber(ARGV[2])
local reservations, subs, counts, scores = base .. 'reservations', {}, {}, {}
redis.call('ZADD', base .. 'workers', ARGV[3], worker)
$once
for i = 5, #ARGV, 3 do
  local id, first, count = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  for index = first, first + count - 1 do
    $each
    redis.call('XADD', reservations, '*', 's', id, 'i', index, 'a', 1, 't', ARGV[3], 'e', ARGV[4])
  end
  $touch
  redis.call('HSET', base .. 'sub:' .. id, 'cursor', first + count, 'chunks_in_hand', count)
  subs[#subs + 1] = redis.call('HMGET', base .. 'sub:' .. id, 'chunks_total', 'chunk_size',
    'operations_total', 'inline', 'prefix', 'codec', 'max_attempts', 'metadata', 'trace_context')
end
$write
local delivered = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', n, 'STREAMS',
  reservations, '>')
return {delivered, subs, redis.call('XREVRANGE', base .. 'wake', '+', '-', 'COUNT', 1)}
