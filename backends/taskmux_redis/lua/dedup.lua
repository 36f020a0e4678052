-- Say who owns a deduplication key, or free it.
--
-- KEYS: base, work, live, ready, grouped, ring, parked, delayed, blocked, dedup, sequence, marker,
--   settings, events, numbers
-- ARGV: key, owner
--   owner: free the key if this job owns it; '' only asks
-- Returns: the owner's id, or false: before it was freed.
--! include clock
--! include chunks
--! include order
--! include stamp
--! include live
--! include wake
--! include lines
--! include tell

local now = clock()

local function flush()
end

local function state_of(id)
  return redis.call('HGET', live, id)
end

local function put_state(id, state)
  redis.call('HSET', live, id, state)
end

--! include owners

local found = owner_of(key) or false
if found and found == owner then
  free(key)
end
return found
