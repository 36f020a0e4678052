-- The store's time in epoch milliseconds. TIME goes on while a script runs, so read it once.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
