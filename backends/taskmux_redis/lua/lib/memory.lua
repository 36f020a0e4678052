-- What each origin's last operation was answered, so that a repeat is answered alike. A memory is
-- the operation's number, the time (prune forgets origins that are long gone), and the reply.
-- Needs: ops, origin, number.

-- Returns the reply in a memory of this very operation, or nil if the operation is new. An older
-- number is a request that a broken connection delivered late: its sender has gone on, so it must
-- change nothing.
local function reply_in(known)
  if not known then
    return nil
  end
  local last, reply = string.match(known, '^(%d+) %d+ ()')
  last = tonumber(last) - number
  if last < 0 then
    return nil
  end
  if last > 0 then
    error('OUTDATED operation ' .. number .. ': its origin has sent a later one')
  end
  return string.sub(known, reply)
end

local function recall()
  return reply_in(redis.call('HGET', ops, origin))
end

local function remember(now, reply)
  redis.call('HSET', ops, origin, number .. string.format(' %.0f ', now) .. reply)
end
