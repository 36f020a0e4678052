-- List the workers whose last heartbeat still counts; forget the others.
--
-- KEYS: workers, about
-- Returns: for each, by id, when it was seen (13 digits) and its account.
--! include clock

local now = clock()
local gone = redis.call('ZRANGEBYSCORE', workers, '-inf', now, 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', workers, unpack(gone))
  redis.call('HDEL', about, unpack(gone))
end
local live = redis.call('ZRANGE', workers, 0, -1)
table.sort(live)
local told = {}
for i = 1, #live do
  told[i] = redis.call('HGET', about, live[i])
end
return told
