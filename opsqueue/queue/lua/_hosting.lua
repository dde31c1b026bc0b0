-- Hosting: what a worker gets while there are suspects.
--
-- At most half of the live workers host a suspect; an only worker alternates between suspects and
-- ordinary chunks. If no worker that holds nothing asks, one is told to stop reserving.
--
-- With _strategy.

-- Decide what a worker gets; `turn` is the value of `isolating`. Returns a mode, an instant to ask
-- again at (nil: any wake-up) and, if the mode is "suspect", its submission, the number of the
-- alternative in the strategy, and its index. Mode '': ordinary chunks.
local function choose_for(worker, is_alone, turn, strategy, chance)
  local DRAIN_AFTER_MS = 10000  -- that a suspect has waited
  local DRAIN_MS = 600000  -- after which another worker is told, too
  local GIVES_UP_MS = 30000  -- one that asks so long after it was told has not become empty
  local PAUSE_MS = 60000  -- in which nobody is told then
  local HANGS_MS = 60000  -- a suspect that has waited so long may have the place of an ended one
  local SUSPECTS_EXAMINED, HOSTS_EXAMINED = 100, 100
  local hosts, suspects, delayed = base .. 'hosts', base .. 'suspects', base .. 'delayed'

  local function has_ended(entry_id)
    return not redis.call('XRANGE', base .. 'reservations', entry_id, entry_id)[1]
  end

  -- Return whether there is room for one more host. A host whose suspect has ended keeps its place,
  -- since it asks next for another one. But another one may take that place, at once if it holds
  -- nothing: the host may hang, or an older version has removed it as dead.
  local function has_room(most, can_take_place)
    if redis.call('HLEN', hosts) < most then
      return true
    end
    local examined = can_take_place and HOSTS_EXAMINED or 1
    local some = redis.call('HRANDFIELD', hosts, examined, 'WITHVALUES')
    for i = 1, #some, 2 do
      if not redis.call('ZSCORE', base .. 'dead_at', some[i])
        or can_take_place and has_ended(some[i + 1]) then
        redis.call('HDEL', hosts, some[i])
        return redis.call('HLEN', hosts) < most
      end
    end
    return false
  end

  local hosted = redis.call('HGET', hosts, worker)
  if hosted and has_ended(hosted) then
    redis.call('HDEL', hosts, worker)
    hosted = false
  end

  -- Return the number of the first alternative whose filters permit the submission.
  local function permitting(id)
    for number, layers in ipairs(strategy) do
      if #layers == 1 then
        return number
      end
      order = order or make_order()
      composed = composed or make_composed(order)
      if composed.permits(layers, id) then
        return number
      end
    end
  end

  -- Return the suspect that has waited longest of those that the strategy permits; if there is
  -- none, nil and the instant at which another one may be reserved.
  local function find()
    local rows = redis.call('ZRANGE', suspects, 0, SUSPECTS_EXAMINED - 1, 'WITHSCORES')
    for i = 1, #rows, 2 do
      local id, index = string.match(rows[i], '^(%d+):(%d+)$')
      local since = tonumber(rows[i + 1])
      if redis.call('HGET', sub_key(id), 'state') ~= 'in_progress'
        or not redis.call('ZSCORE', delayed, rows[i]) then
        -- Its submission has ended, or an older version has freed it.
        redis.call('ZREM', suspects, rows[i])
      elseif since > now then
        return nil, since  -- it was released with a delay, as were those behind it
      else
        local number = permitting(id)
        if number then
          return rows[i], since, id, number, tonumber(index)
        end
      end
    end
  end

  local drainer = redis.call('GET', base .. 'drainer')
  local drains_until, drains = string.match(drainer or '0 ', '^(%d+) (.*)$')
  if drains == worker and is_alone then
    redis.call('DEL', base .. 'drainer')
  elseif drains == worker and now >= drains_until - DRAIN_MS + GIVES_UP_MS then
    drains, drains_until = '', now + PAUSE_MS
    redis.call('SET', base .. 'drainer', string.format('%.0f ', drains_until))
  end
  if hosted then
    -- One that holds nothing has not received the answer: its heartbeat will release the suspect.
    return is_alone and '' or 'drain', now + DRAIN_AFTER_MS
  end
  local member, since, id, number, index = find()
  if not member then
    if redis.call('EXISTS', suspects, hosts) == 0 then
      redis.call('DEL', base .. 'isolating', base .. 'drainer')
    end
    return '', since
  end
  local live = redis.call('ZCOUNT', base .. 'dead_at', '(' .. string.format('%.0f', now), '+inf')
  if not has_room(math.max(1, math.floor(live / 2)), is_alone or now >= since + HANGS_MS) then
    return '', now + DRAIN_AFTER_MS
  elseif live <= 1 and turn == 'ordinary' then
    local ordinary, rest = pick(strategy, chance, '')
    if ordinary or rest ~= '' or not is_alone then
      return '', now + DRAIN_AFTER_MS
    end
  end
  if is_alone then
    redis.call('ZREM', delayed, member)
    redis.call('ZREM', suspects, member)
    redis.call('SET', base .. 'isolating', 'ordinary')
    return 'suspect', nil, id, number, index
  elseif redis.call('HEXISTS', base .. 'begun', worker) == 0 then
    return '', now + DRAIN_AFTER_MS  -- it may not know what it would be told
  elseif now < since + DRAIN_AFTER_MS then
    return '', since + DRAIN_AFTER_MS
  elseif drains ~= worker and now < tonumber(drains_until) then
    return '', tonumber(drains_until)
  end
  redis.call('SET', base .. 'drainer', string.format('%.0f ', now + DRAIN_MS) .. worker)
  return 'drain'
end
