-- Take unreadable records out of every index, so that the queue goes on without them.
--
-- KEYS: base, ready, delayed, blocked, leases, completed, dead, cancelled, moved, expiry,
--   counted, corrupt
-- ARGV: items...
--   item: id
--! include clock
--! include stamp

local now = clock()
for i = items + 1, #ARGV do
  local id = ARGV[i]
  local stamp = redis.pcall('GETRANGE', base .. 'j:' .. id, 0, STAMP - 1)
  if type(stamp) == 'string' then
    redis.call('ZREM', delayed, stamp .. id)
    redis.call('ZREM', blocked, stamp .. id)
  end
  for index = 2, #KEYS - 1 do
    redis.call('ZREM', KEYS[index], id)
  end
  redis.call('HSET', corrupt, id, now)
end
