-- For a value with a rate limit: reads and writes its bucket.
redis.call('HGET', base .. 'full_at:customer', id)
redis.call('HSET', base .. 'full_at:customer', id, ARGV[3])
redis.call('ZADD', base .. 'paced:customer', 'XX', ARGV[3], id)
