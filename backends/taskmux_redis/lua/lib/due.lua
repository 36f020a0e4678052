-- Whether a job due at this instant is now the first of the timetable: then those who sleep
-- until the former first must learn of it. Needs: delayed.
local function due_before(instant)
  if instant == math.huge then
    return false
  end
  return tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]) >= instant
end
