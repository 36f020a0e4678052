-- Leave a command for a live worker's next beat.
--
-- KEYS: workers, told
-- ARGV: worker, token, command
-- Returns: 1, also for a repeat with the same token; 0 if no such worker lives.
--! include clock

local MOST = 100
local now = clock()
local left = (redis.call('ZSCORE', workers, worker) or 0) - now
if left <= 0 then
  return 0
end
local entry = token .. command
if redis.call('LRANGE', told, -1, -1)[1] ~= entry then
  redis.call('RPUSH', told, entry)
  redis.call('LTRIM', told, -MOST, -1)
  redis.call('PEXPIRE', told, string.format('%.0f', left))
end
return 1
