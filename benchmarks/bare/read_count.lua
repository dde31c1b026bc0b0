-- Of a value with a limit of chunks in progress: how many there are.
redis.call('HGET', base .. 'inhand:customer', id)
