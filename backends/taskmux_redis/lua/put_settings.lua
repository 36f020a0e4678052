-- Store a queue's settings if the revision is the stored one.
--
-- KEYS: base, settings, ring, parked, sequence, full, marker, events, numbers
-- ARGV: rev, token, items...
--   items: fields and values, as the other scripts read them: paused first, moved, limited, size, named
--   (how many lines have a field of their own), what holds for the queue (limits), for every group
--   (groups) and for single lines (l:<line>), and the settings as they are read back (data)
-- Returns: 1 if they were stored (also by this very call before its reply was lost), else 0.
--
-- The first write frees memory, so a full store can still be paused.
--! include clock
--! include chunks
--! include live
--! include tell

local now = clock()
--! include gates
--! include wake

local stored = redis.call('HMGET', settings, 'rev', 'token', 'paused')
if stored[2] == token then
  return 1
end
if tonumber(stored[1] or 0) ~= tonumber(rev) then
  return 0
end
redis.call('DEL', settings, full)
redis.call('HSET', settings, 'rev', rev + 1, 'token', token)
local fields = {}
for i = items + 1, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
in_chunks('HSET', settings, fields)
local kept, is_paused = redis.call('HGET', settings, 'events'), ARGV[items + 2]
if kept == '0' then
  redis.call('DEL', events)
  redis.pcall('INCR', numbers) -- who comes later finds a gap
elseif is_paused ~= (stored[3] or '0') then
  tell(kept, now, is_paused == '1' and 'h' or 'g', '', {''})
end
-- What kept a line may be no more: all come back, behind the others.
local lines, turns = redis.call('ZRANGE', parked, 0, -1), {}
table.sort(lines)
local turn = redis.call('INCRBY', sequence, #lines) - #lines
for i = 1, #lines do
  turns[2 * i - 1], turns[2 * i] = turn + i, lines[i]
end
redis.call('DEL', parked)
end_rests()
in_chunks('ZADD', ring, turns)
wake(1)
return 1
