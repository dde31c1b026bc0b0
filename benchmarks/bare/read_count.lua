-- For a value with a limit of chunks in progress: reads their number.
redis.call('HGET', base .. 'inhand:customer', id)
