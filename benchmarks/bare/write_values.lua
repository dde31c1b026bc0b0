-- Once per call: writes the counts of all touched values and of their key, and their places in its
-- indexes.
redis.call('HSET', base .. 'inhand:$key', unpack(counts))
redis.call('HINCRBY', base .. 'inhand', '$key', ${sign}n)
redis.call('ZADD', base .. 'oldest:$key', unpack(scores))
redis.call('ZADD', base .. 'newest:$key', unpack(scores))
