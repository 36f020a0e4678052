-- Who owns a deduplication key, and who comes next. This goes into a function, so that a script whose
-- jobs have no key does not pay for making it.
--
-- `dedup` has the owner of each key; `throttled` has the keys that are owned until an instant, and
-- `successors` the job that waits for a key's owner to end.
-- Needs: base, work, dedup, sequence, delayed, blocked, settings, events, numbers, now; flush(),
-- state_of(id) and put_state(id, live string) of the script; live.lua, stamp.lua, order.lua,
-- lines.lua, wake.lua, tell.lua.
local throttled, successors = base .. 'throttled', base .. 'successors'

-- What a job says of its key: the key, how long it owns it, and letters of its modes.
local function dedup_in(text)
  local key, ttl, modes = string.match(text, '^(.-)\31(%d*)\31(%a*)$')
  return key or text, tonumber(ttl), modes or ''
end

local function own(key, id, ttl)
  redis.call('HSET', dedup, key, id)
  if ttl then
    redis.call('ZADD', throttled, digits(now + ttl), key)
  end
end

-- The job that waits for a key's owner to end, its live string and its fields; nil if none does.
local function successor_of(key)
  local id = redis.call('HGET', successors, key)
  local state = id and state_of(id)
  local fields = state and string.sub(state, 1, 1) == 'b' and parse(fields_text(state))
  if fields and fields.c == 'dedup' and fields.k and dedup_in(fields.k) == key then
    return id, state, fields
  end
end

-- Let the successor own the key, and wait.
local function hand_over(key, id, state, fields)
  local stamp = string.sub(redis.call('HGET', work, id) or '', 1, STAMP)
  local is_early = fields.r and tonumber(fields.r) > now
  local worker = string.sub(state, 34, #state - #fields_text(state))
  local _, ttl = dedup_in(fields.k)
  own(key, id, ttl)
  fields.c = nil
  redis.call('ZREM', blocked, stamp .. id)
  put_state(id, (is_early and 'd' or 'w') .. string.sub(state, 2, 33) .. worker
    .. serialise(fields))
  if is_early then
    redis.call('ZADD', delayed, fields.r, stamp .. id)
  else
    local turn = redis.call('INCR', sequence)
    join(fields.g or '', back(tonumber(fields.p or PRIORITY), turn), id, turn)
  end
  tell(redis.call('HGET', settings, 'events'), now, 's', is_early and 'd' or 'w', {id})
  wake(1)
end

-- Let nobody own the key, or its successor.
local function free(key)
  flush()
  local id, state, fields = successor_of(key)
  redis.call('HDEL', dedup, key)
  redis.call('ZREM', throttled, key)
  redis.call('HDEL', successors, key)
  if id then
    hand_over(key, id, state, fields)
  end
end

-- The job that owns a key now, or nil. One that was never stored or cannot be read owns nothing.
local function owner_of(key)
  local id = redis.call('HGET', dedup, key)
  if not id then
    return nil
  end
  local ending = redis.call('ZSCORE', throttled, key)
  local owns = ending and tonumber(ending) > now
    or not ending and redis.call('HEXISTS', work, id) == 1
  if owns and redis.call('HEXISTS', base .. 'corrupt', id) == 0 then
    return id
  end
  free(key)
  return redis.call('HGET', dedup, key) or nil
end

-- A job with a key left its states: it is removed, or else it has finished.
local function let_go(text, id, is_removed)
  local key = dedup_in(text)
  if owner_of(key) == id then
    if is_removed or not redis.call('ZSCORE', throttled, key) or successor_of(key) then
      free(key)
    end
  elseif redis.call('HGET', successors, key) == id then
    redis.call('HDEL', successors, key)
  end
end

-- A finished job is to go on: it needs its key again. Returns whether it owns it.
local function take_again(text, id)
  local key, ttl = dedup_in(text)
  local owner = owner_of(key)
  if not owner then
    own(key, id, ttl)
  end
  return owner == nil or owner == id
end
