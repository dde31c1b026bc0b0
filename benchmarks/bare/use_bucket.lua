-- Of a value with a rate limit: its bucket is read and written.
redis.call('HGET', base .. 'full_at:customer', id)
redis.call('HSET', base .. 'full_at:customer', id, ARGV[3])
redis.call('ZADD', base .. 'paced:customer', 'XX', ARGV[3], id)
