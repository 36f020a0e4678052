-- Take unreadable records out of every index, so that the queue goes on without them.
--
-- KEYS: work, corrupt, ready, delayed, blocked, leases, completed, dead, cancelled, moved, counted
-- ARGV: items...
--   item: id
--! include clock
--! include stamp

local now = clock()
for i = items + 1, #ARGV do
  local id = ARGV[i]
  local stamp = string.sub(redis.call('HGET', work, id) or '', 1, STAMP)
  for index = 3, #KEYS do
    redis.call('ZREM', KEYS[index], id, stamp .. id)
  end
  redis.call('HSET', corrupt, id, now)
end
