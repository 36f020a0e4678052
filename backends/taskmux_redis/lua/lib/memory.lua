-- What each origin's last operation was answered, so that a repeat is answered alike.
-- Needs: ops, replies, origin, number.

-- Returns the reply of this very operation, or nil if it is new. An older number is a request
-- that a broken connection delivered late: its sender has gone on, so it must change nothing.
local function recall()
  local known = redis.call('HGET', ops, origin)
  if not known then
    return nil
  end
  local last, asked = tonumber(string.match(known, '^%d+')), tonumber(number)
  if asked > last then
    return nil
  end
  if asked < last then
    error('OUTDATED operation ' .. number .. ': its origin has sent a later one')
  end
  return redis.call('HGET', replies, origin)
end

-- The time beside the number lets prune forget origins that are long gone.
local function remember(now, reply)
  redis.call('HSET', ops, origin, number .. string.format(' %.0f', now))
  redis.call('HSET', replies, origin, reply)
end
