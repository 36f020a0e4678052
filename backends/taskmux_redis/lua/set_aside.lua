-- Take unreadable records out of every index, so that the queue goes on without them.
--
-- KEYS: base, work, live, corrupt, sequence, ready, grouped, ring, parked, delayed, blocked, leases,
--   completed, dead, cancelled, moved, counted, full, marker
-- ARGV: items...
--   item: id
--! include clock
--! include stamp
--! include live
--! include lines
--! include wake

local now = clock()
for i = items + 1, #ARGV do
  local id = ARGV[i]
  local job = redis.call('HGET', work, id) or ''
  local fields = parse(fields_text(redis.call('HGET', live, id) or ''))
  local line = fields and fields.g or group_in(job, STAMP)
  quit(line, id)
  for _, index in ipairs({delayed, blocked, leases, completed, dead, cancelled, moved, counted}) do
    redis.call('ZREM', index, id, string.sub(job, 1, STAMP) .. id)
  end
  if line ~= '' then
    redis.call('ZREM', running_key(line), id)
    readmit(line, redis.call('INCR', sequence))
  end
  redis.call('HSET', corrupt, id, digits(now) .. '!') -- `repair.lua` leaves it there
end
redis.call('DEL', full)
wake(#ARGV - items) -- an active one may have made room
