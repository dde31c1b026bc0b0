-- Any member of an index.
redis.call('ZRANDMEMBER', base .. '$index', 1)
