-- A job that waits for the owner of its deduplication key must be known as the key's successor, and
-- the owner must be there, or else nobody lets it go. This goes into a function of `repair.lua`.
-- Needs: what repair.lua has; owners.lua.

-- Returns whether something had to be put right.
local function follow_again(id, text)
  local key = dedup_in(text)
  local owner, follower = redis.call('HGET', dedup, key), successor_of(key)
  if follower and follower ~= id then
    return false
  end
  local is_led = owner and owner ~= id
  if not follower then
    redis.call('HSET', successors, key, id)
  end
  if not is_led then
    free(key)
  else
    is_led = owner_of(key) == owner
  end
  return not (is_led and follower)
end
