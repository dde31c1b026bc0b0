-- The first member of an index.
redis.call('ZRANGE', base .. '$index', 0, 0)
