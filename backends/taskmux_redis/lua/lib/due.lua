-- Whether a job due at this instant is now the first of the timetable: then those who sleep
-- until the former first must learn of it. Needs: delayed.
local function due_before(instant)
  if instant == math.huge then
    return false
  end
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  return first ~= nil and tonumber(first) >= instant -- none if it went again in the same batch
end
